"""What a rendered world is made of: parts with a shape, a texture and a motion; objects; a light; a camera.

World frame: x forward, y left, z up, metres (REP-103). Camera frame: x right, y down, z forward.
Shapes are in a frame of their own around the origin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.textures import Texture


class Shape(ABC):
    @property
    @abstractmethod
    def solid(self) -> tuple[int, tuple[float, ...]]:
        """Kind and numbers as the renderer wants them (solids.py)."""


@dataclass(frozen=True)
class Box(Shape):
    half: tuple[float, float, float]

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.BOX, self.half


@dataclass(frozen=True)
class Room(Shape):
    """A box seen from inside."""

    half: tuple[float, float, float]

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.ROOM, self.half


@dataclass(frozen=True)
class Ellipsoid(Shape):
    half: tuple[float, float, float]

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.ELLIPSOID, self.half


@dataclass(frozen=True)
class Capsule(Shape):
    """A cylinder along z with round ends: limbs, torsos."""

    thickness: float  # radius
    half_length: float  # from the origin to the centre of each end sphere

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.CAPSULE, (self.thickness, self.half_length)


@dataclass(frozen=True)
class Cylinder(Shape):
    """A cylinder along z with flat ends: cans, mugs, lamps, wheels. Faces: 0 side, 1 ends."""

    thickness: float  # radius
    half_length: float

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.CYLINDER, (self.thickness, self.half_length)


@dataclass(frozen=True)
class Prism(Shape):
    """A polygon along z: roofs, cabins, pillars. Faces: 0 sides, 1 ends."""

    sides: int  # 3 to 6
    apothem: float  # from the axis to the middle of a side, at the bottom
    half_length: float
    taper: float = 0.0  # metres of apothem lost per metre upwards

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.PRISM, (float(self.sides), self.apothem, self.half_length, self.taper)


Motion = Callable[[float], np.ndarray]  # seconds -> (4, 4) float64 world_from_something


@dataclass(frozen=True)
class Part:
    """One rigid piece of an object."""

    shape: Shape
    textures: tuple[Texture, ...]  # one for all faces, or one per face of the shape
    world_from_part: Motion


@dataclass(frozen=True)
class Occluder:
    """The ellipsoid or box that stands for an object when the shadow that it casts is computed."""

    half: tuple[float, float, float]  # semi-axes, metres
    world_from_occluder: Motion
    box: bool = False


@dataclass(frozen=True)
class SceneObject:
    """Parts that belong together. `moving` objects make the dynamic mask."""

    name: str
    parts: tuple[Part, ...]
    moving: bool = False
    occluder: Occluder | None = None


@dataclass(frozen=True)
class Light:
    """A lamp and the light that comes from everywhere."""

    position: tuple[float, float, float]  # world, metres
    lamp: float = 1.0  # irradiance from the lamp on a facing surface at `reach`
    ambient: float = 0.6
    reach: float = 3.0  # metres; beyond it the lamp fades


@dataclass(frozen=True)
class Sky:
    """The open air: a sun instead of a lamp, shadows that it casts, and what is seen where there is nothing."""

    sun: tuple[float, float, float]  # direction towards it, world
    strength: float = 1.2  # irradiance on a facing surface
    ambient: float = 0.55
    shadow: float = 0.75  # how much of the sun a shadow takes
    softness: float = 0.1  # of the shadow's edge, as share of what casts it
    zenith: tuple[float, float, float] = (0.20, 0.38, 0.72)  # linear RGB
    horizon: tuple[float, float, float] = (0.72, 0.78, 0.86)
    clouds: float = 0.8


@dataclass(frozen=True)
class SceneCamera:
    """A pinhole camera without distortion."""

    world_from_cam: Motion
    horizontal_fov: float = 62.0  # degrees
    noise: float = 1.5  # standard deviation of the sensor noise, grey levels of 255


@dataclass(frozen=True)
class Scene:
    objects: tuple[SceneObject, ...]
    camera: SceneCamera
    light: Light | Sky  # under a lamp, the scene must be closed: no ray may leave it

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for item in self.objects for part in item.parts)

    def instance_of_part(self) -> np.ndarray:
        """(P,) int32: 0 for parts of the static world, else the number of the moving object, from 1."""
        ids, moving = [], 0
        for item in self.objects:
            moving += item.moving
            ids += [moving if item.moving else 0] * len(item.parts)
        return np.array(ids, dtype=np.int32)


@dataclass(frozen=True)
class SceneView:
    """A camera and the parts of a scene at one instant."""

    K: np.ndarray  # (3, 3)
    world_from_cam: np.ndarray  # (4, 4)
    world_from_part: np.ndarray  # (P, 4, 4)


def view_of(scene: Scene, seconds: float, size: tuple[int, int]) -> SceneView:
    """Camera and objects at a time; size: (W, H) of the image."""
    return SceneView(
        intrinsics(size, scene.camera.horizontal_fov),
        scene.camera.world_from_cam(seconds),
        np.stack([part.world_from_part(seconds) for part in scene.parts]),
    )


def intrinsics(size: tuple[int, int], horizontal_fov: float) -> np.ndarray:
    """(3, 3) float64 K of an image of `size` (W, H): integer pixel centres, principal point in the image's middle."""
    width, height = size
    focal = width / 2 / np.tan(np.radians(horizontal_fov) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
