"""A furnished room of 7 x 6 m, seen by somebody who walks through it or round in it; with or without other people."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_lab.synthetic.motions import EllipseWalk, Fixed, Handheld, hand_waves, pose
from easi3r_lab.synthetic.presets import props
from easi3r_lab.synthetic.presets.props import walker
from easi3r_lab.synthetic.scene import Ellipsoid, Light, Occluder, Part, Scene, SceneCamera, SceneObject
from easi3r_lab.synthetic.textures import fabric, poster, speckle

HALF = (3.5, 3.0, 1.35)
WALKING_SPEED = 0.5  # of the camera, metres per second
CROWD = ((-0.8, -0.5), (-0.65, 0.75), (0.15, 0.05), (0.85, 0.95), (1.05, -0.95))  # where people walk, metres
LONGEST_WAY = 4.0  # seconds; in longer clips the camera goes to and fro


def static(rng: np.random.Generator, duration: float) -> Scene:
    """Nobody but the camera moves."""
    return Scene(interior(rng), _camera(rng, duration), lamp())


def walkers(rng: np.random.Generator, duration: float) -> Scene:
    """Three people walk about in front of the camera, 2 to 4 m away."""
    surroundings, camera = interior(rng), _camera(rng, duration)
    people = []
    for number, (x, y) in enumerate(((-0.2, 0.35), (0.75, -0.75), (1.55, 0.5)), start=1):
        walk = EllipseWalk(
            centre=(x, y, 0.0),
            axes=(0.22, 0.85 + 0.25 * rng.random()),
            yaw=rng.uniform(-0.25, 0.25),
            speed=rng.uniform(0.75, 1.05) * rng.choice([-1, 1]),
            phase=rng.uniform(0, 2 * np.pi),
            bob=0.02,
        )
        people.append(walker(rng, f"walker {number}", walk))
    return Scene((*surroundings, *people), camera, lamp())


def crowd(rng: np.random.Generator, duration: float) -> Scene:
    """Five people walk about right before the camera, 1.2 to 3.5 m away: up to half of the image."""
    surroundings, camera = interior(rng), _camera(rng, duration)
    people = []
    for number, (x, y) in enumerate(CROWD, start=1):
        walk = EllipseWalk(
            centre=(x, y, 0.0),
            axes=(0.16, 0.45 + 0.3 * rng.random()),
            yaw=rng.uniform(-0.4, 0.4),
            speed=rng.uniform(0.5, 1.0) * rng.choice([-1, 1]),
            phase=rng.uniform(0, 2 * np.pi),
            bob=0.02,
        )
        people.append(walker(rng, f"walker {number}", walk))
    return Scene((*surroundings, *people), camera, lamp())


def handheld(rng: np.random.Generator, duration: float) -> Scene:
    """A room full of clutter, a camera in a restless hand, and one person who walks in front of it."""
    surroundings = (*interior(rng), *clutter(rng))
    calm = _camera(rng, duration)
    path = replace(calm.world_from_cam, sway=0.03, shake=0.03)
    speed = rng.uniform(0.7, 1.0) * rng.choice([-1, 1])
    walk = EllipseWalk((0.6, 0.0, 0.0), (0.3, 0.9), rng.uniform(-0.2, 0.2), speed, rng.uniform(0, 2 * np.pi), bob=0.02)
    return Scene((*surroundings, walker(rng, "walker", walk)), replace(calm, world_from_cam=path), lamp())


def lamp() -> Light:
    """Below the ceiling, a little left of the middle."""
    return Light(position=(-0.8, 0.6, 2.5))


def _camera(rng: np.random.Generator, duration: float) -> SceneCamera:
    side = rng.choice([-1.0, 1.0])
    one_way = min(duration, LONGEST_WAY)
    travel = WALKING_SPEED * one_way * np.array([0.55, 0.84 * side, 0.0])
    middle = np.array([-2.35, 0.0, 1.45])
    path = Handheld(
        start=tuple(middle - travel * [0.3, 0.5, 0.0]),
        travel=tuple(travel),
        arc=(0.10, 0.0, 0.04),
        gaze_start=(2.5, -0.25 * side, 1.05),
        gaze_end=(2.5, 0.25 * side, 1.0),
        duration=one_way,
        returns=duration > LONGEST_WAY,
        sway=0.008,
        shake=0.006,
        waves=hand_waves(rng),
    )
    return SceneCamera(path)


def interior(rng: np.random.Generator) -> tuple[SceneObject, ...]:
    """The room and its props."""
    carton = speckle(rng, (0.45, 0.30, 0.17), 0.25)
    chest = speckle(rng, props.WOOD[rng.integers(3)], 0.3)
    rug = fabric(rng, [(0.35, 0.08, 0.07), (0.55, 0.42, 0.28), (0.09, 0.11, 0.22)], side=512, metres=1.5)
    return (
        props.room(rng, HALF, props.wooden_floor(rng)),
        props.block("carpet", (1.1, 1.5, 0.006), (0.8, 0.0, 0.0), (rug,)),
        props.bookshelf(rng, (3.3, 1.5, 0.0), np.pi),
        props.sofa(rng, (2.85, -0.7, 0.0), np.pi),
        props.picture(rng, "print on the bricks", (3.47, -0.6, 1.75), 1.2, 0.8, np.pi),
        props.picture(rng, "print on the left", (0.8, 2.97, 1.6), 0.9, 1.1, -np.pi / 2),
        props.picture(rng, "print on the right", (0.6, -2.97, 1.6), 1.0, 0.8, np.pi / 2),
        props.plant(rng, (2.9, 2.55, 0.0)),
        props.lamp(rng, (2.9, -2.2)),
        props.table(rng, (1.3, -2.4, 0.0), 0.7, 0.4, 0.75),
        props.block("carton", (0.2, 0.25, 0.2), (0.2, 2.5, 0.0), (carton,), rng.uniform(0, 1)),
        props.block("small carton", (0.14, 0.18, 0.12), (0.2, 2.45, 0.4), (carton,), rng.uniform(0, 1)),
        props.block("chest", (0.5, 0.25, 0.4), (1.6, 2.7, 0.0), (chest,)),
    )


def clutter(rng: np.random.Generator) -> list[SceneObject]:
    """Boxes, balls, cans and stools that lie about, a few of them one on another; nothing where people walk."""
    things = []
    for number in range(16):
        far_side = number % 2 == 0
        x = rng.uniform(1.6, 2.9) if far_side else rng.uniform(-1.0, 2.2)
        y = rng.uniform(-1.8, 1.9) if far_side else rng.choice([-1, 1]) * rng.uniform(1.6, 2.3)
        cloth = fabric(rng, rng.uniform(0.05, 0.8, (3, 3)).tolist(), metres=rng.uniform(0.2, 0.6))
        half = tuple(rng.uniform(0.08, 0.28, 3))
        if number % 4 == 3:
            centre = Fixed(pose((x, y, half[0])))
            part = Part(Ellipsoid((half[0],) * 3), (cloth,), centre)
            things.append(SceneObject("ball", (part,), occluder=Occluder((half[0],) * 3, centre)))
        else:
            things.append(props.block("box", half, (x, y, 0.0), (cloth,), rng.uniform(0, 3)))
            on_top = tuple(0.6 * h for h in half)
            paper = poster(rng, metres=0.6)
            things.append(props.block("book", on_top, (x, y, 2 * half[2]), (paper,), rng.uniform(0, 3)))
    return things


BODY_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # REP-103
ROUND = EllipseWalk(centre=(0.0, 0.0, 1.45), axes=(1.7, 1.4), yaw=0.0, speed=0.5, phase=0.0)
AHEAD = (
    (0.62, -0.1),
    (0.72, -0.75),
    (0.9, 0.35),
    (1.0, -0.45),
)  # people: radians ahead of the camera, metres to its left


@dataclass(frozen=True, eq=False)
class Carried:
    """A camera held by somebody who walks: looks ahead, sways a little."""

    walk: EllipseWalk
    waves: np.ndarray  # (6, K, 2) as Handheld.waves
    sway: float = 0.008  # metres
    shake: float = 0.006  # radians

    def __call__(self, seconds: float) -> np.ndarray:
        wobble = np.sin(2 * np.pi * self.waves[..., 0] * seconds + self.waves[..., 1])
        wobble = wobble.sum(axis=1) * np.sqrt(2 / self.waves.shape[1])  # unit deviation
        matrix = self.walk(seconds) @ BODY_FROM_OPTICAL
        matrix[:3, 3] += self.sway * wobble[:3]
        matrix[:3, :3] = matrix[:3, :3] @ Rotation.from_rotvec(self.shake * wobble[3:]).as_matrix()
        return matrix


@dataclass(frozen=True, eq=False)
class Beside:
    """Walks along with somebody, some way to the left, swinging a little from side to side."""

    walk: EllipseWalk
    left: float  # metres
    swing: float  # metres
    phase: float  # radians

    @property
    def step_frequency(self) -> float:
        return self.walk.step_frequency

    def __call__(self, seconds: float) -> np.ndarray:
        return self.walk(seconds) @ pose((0.0, self.left + self.swing * np.sin(1.3 * seconds + self.phase), 0.0))


def patrol(rng: np.random.Generator, duration: float) -> Scene:
    """Four people walk in front of the camera, about a third of the image."""
    start = rng.uniform(0, 2 * np.pi)
    camera = Carried(replace(ROUND, phase=start), hand_waves(rng))
    people = []
    for number, (ahead, left) in enumerate(AHEAD, start=1):
        path = replace(ROUND, centre=(0.0, 0.0, 0.0), phase=start + ahead)
        people.append(walker(rng, f"walker {number}", Beside(path, left, 0.15, rng.uniform(0, 2 * np.pi))))
    return Scene((*interior(rng), *people), SceneCamera(camera), lamp())
