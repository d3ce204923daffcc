"""From a scene with names, textures and motions to the tensors that the renderer takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from easi3r_lab.synthetic import patterns
from easi3r_lab.synthetic.first_hits import Grid, first_hits
from easi3r_lab.synthetic.scene import Light, Scene, SceneView, Sky
from easi3r_lab.synthetic.textures import Texture, bank_of, mip_maps
from easi3r_lab.synthetic.worlds import FACES, Lights, Materials, Occluders, Shots, Worlds
from easi3r_ros.core.geometry import invert_se3

_CONTACT = 0.8  # of the light that an object around a point may take from it


def worlds_of(scene: Scene) -> Worlds:
    """A batch of one."""
    parts = scene.parts
    textures = _distinct([texture for part in parts for texture in part.textures])
    if isinstance(scene.light, Sky):
        textures.insert(0, Texture(mip_maps(patterns.clouds()), 1.0))  # where the renderer looks for them
    number = {id(texture): row for row, texture in enumerate(textures)}
    faces = [[number[id(t)] for t in _six(part.textures)] for part in parts]
    group = [index for index, item in enumerate(scene.objects) for _ in item.parts]
    kind, size = _solids(scene)
    return Worlds(
        kind=kind[None],
        size=size[None].float(),
        group=torch.tensor([group]),
        material=torch.tensor([faces]),
        materials=_materials([texture.metres for texture in textures]),
        occluders=_occluders(scene),
        lights=_lights(scene.light),
        bank=bank_of([texture.levels for texture in textures]),
    )


def truth_of(scene: Scene, views: Sequence[SceneView], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """What the cameras see, in double precision: (N, H, W) float64 z-depth, metres, inf where there is nothing; and
    (N, H, W) int16 index of the part, -1 there."""
    kind, size = _solids(scene)
    K, world_from_cam, world_from_part = (
        torch.from_numpy(np.stack([getattr(view, name) for view in views]))
        for name in ("K", "world_from_cam", "world_from_part")
    )
    cam_from_part = invert_se3(world_from_cam)[:, None] @ world_from_part
    N = len(views)
    depth, part = first_hits(kind.expand(N, -1), size.expand(N, -1, -1), cam_from_part, K, grid)
    return depth.numpy(), part.numpy()


def _solids(scene: Scene) -> tuple[Tensor, Tensor]:
    """Kind (P,) and size (P, 4) of all parts."""
    found = [part.shape.solid for part in scene.parts]
    sizes = [[*size, 0.0, 0.0, 0.0][:4] for _, size in found]
    return torch.tensor([kind for kind, _ in found]), torch.tensor(sizes, dtype=torch.float64)


def shots_of(scene: Scene, views: Sequence[SceneView], seconds: Sequence[float]) -> Shots:
    """Pictures of the scene of `worlds_of`, one per view, in single precision."""

    def stacked(poses: list) -> Tensor:
        return torch.from_numpy(np.stack(poses)).float()

    shadows = [item.occluder for item in scene.objects if item.occluder is not None]
    occluders = [np.stack([shadow.world_from_occluder(t) for shadow in shadows]) for t in seconds if shadows]
    return Shots(
        scene=torch.zeros(len(views), dtype=torch.int64),
        K=stacked([view.K for view in views]),
        world_from_cam=stacked([view.world_from_cam for view in views]),
        world_from_part=stacked([view.world_from_part for view in views]),
        world_from_occluder=stacked(occluders) if shadows else torch.zeros(len(views), 0, 4, 4),
    )


def _distinct(textures: list[Texture]) -> list[Texture]:
    return list({id(texture): texture for texture in textures}.values())


def _six(textures: tuple[Texture, ...]) -> tuple[Texture, ...]:
    return textures * FACES if len(textures) == 1 else (*textures, *textures[:1] * FACES)[:FACES]


def _materials(metres: list[float]) -> Materials:
    """Textures as they are."""
    R = len(metres)
    return Materials(
        texture=torch.arange(R),
        metres=torch.tensor(metres),
        turn=torch.tensor([1.0, 0.0]).expand(R, 2),
        shift=torch.zeros(R, 2),
        bias=torch.zeros(R, 3),
        mix=torch.eye(3).expand(R, 3, 3),
        blotches=torch.zeros(R, dtype=torch.int64),
        blotch=torch.zeros(R),
        gloss=torch.zeros(R),
    )


def _occluders(scene: Scene) -> Occluders:
    shadows = [(item.occluder, index) for index, item in enumerate(scene.objects) if item.occluder is not None]
    return Occluders(
        half=torch.tensor([shadow.half for shadow, _ in shadows], dtype=torch.float32).view(1, -1, 3),
        box=torch.tensor([shadow.box for shadow, _ in shadows], dtype=torch.bool).view(1, -1),
        group=torch.tensor([index for _, index in shadows], dtype=torch.int64).view(1, -1),
    )


def _lights(light: Light | Sky) -> Lights:
    sky = light if isinstance(light, Sky) else None
    return Lights(
        position=torch.tensor([sky.sun if sky else light.position], dtype=torch.float32),
        sun=torch.tensor([sky is not None]),
        lamp=torch.full((1, 3), sky.strength if sky else light.lamp),
        ambient=torch.full((1, 3), light.ambient),
        reach=torch.tensor([1.0 if sky else light.reach]),
        contact=torch.tensor([_CONTACT]),
        shadow=torch.tensor([sky.shadow if sky else 0.0]),
        softness=torch.tensor([sky.softness if sky else 1.0]),
        zenith=torch.tensor([sky.zenith if sky else (0.0, 0.0, 0.0)]),
        horizon=torch.tensor([sky.horizon if sky else (0.0, 0.0, 0.0)]),
        clouds=torch.tensor([sky.clouds if sky else 0.0]),
    )
