"""Whole random scenes: the best of many candidates, with materials, light and shadows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from easi3r_lab.synthetic import patterns, solids
from easi3r_lab.synthetic.random_worlds.bodies import BODIES, SLOTS
from easi3r_lab.synthetic.random_worlds.candidates import Candidates, faults, random_candidates
from easi3r_lab.synthetic.random_worlds.layout import FLOOR, GROUND, PICTURE, ROAD, Dice
from easi3r_lab.synthetic.random_worlds.materials import random_lights, random_materials
from easi3r_lab.synthetic.worlds import FACES, Occluders, Shots, Worlds

_SPARE = 1.7  # candidates per scene that is wanted
_STILL_SHADOWS = 10  # things of the still world that cast shadows


@dataclass(frozen=True)
class RandomScenes:
    worlds: Worlds
    focal: Tensor  # (B,) share of the image's width
    seconds: Tensor  # (B, V)
    world_from_cam: Tensor  # (B, V, 4, 4)
    world_from_part: Tensor  # (B, V, P, 4, 4)
    world_from_occluder: Tensor  # (B, V, O, 4, 4)
    moving: Tensor  # (B, P) bool

    def shots(self, K: Tensor) -> Shots:
        """All views, those of a scene one after the other. K: (B, 3, 3)."""
        B, V = self.seconds.shape
        return Shots(
            torch.arange(B).repeat_interleave(V),
            K.repeat_interleave(V, dim=0),
            self.world_from_cam.flatten(0, 1),
            self.world_from_part.flatten(0, 1),
            self.world_from_occluder.flatten(0, 1),
        )


def random_scenes(dice: Dice, scenes: int, views: int, size: tuple[int, int]) -> RandomScenes:
    """`scenes` random scenes with `views` camera poses each; size: (W, H) of the images."""
    candidates = random_candidates(dice, math.ceil(scenes * _SPARE) + 4, views, size)
    best = torch.sort(faults(candidates, size), stable=True).indices[:scenes]
    return _furnished(dice, candidates[best.sort().values])


def _furnished(dice: Dice, c: Candidates) -> RandomScenes:
    """With materials, light and shadows."""
    B, P = c.layout.kind.shape
    far = torch.linalg.vector_norm(c.still.target - c.still.eye, dim=-1)
    small = (far / 3.0).clamp(0.1, 1.0)  # patterns shrink with doll's houses
    style = torch.cat([c.layout.style, torch.zeros(B, FACES - 1, dtype=torch.int64)], dim=1)  # walls of rooms: own rows
    scale = small.repeat_interleave(P + FACES - 1)
    materials = random_materials(dice, style.flatten(), scale)
    first = (torch.arange(B) * (P + FACES - 1))[:, None, None]
    material = (c.wears[..., None] + first).expand(-1, -1, FACES).clone()
    walls = torch.arange(FACES) + torch.where(torch.arange(FACES) > 0, P - 1, BODIES * SLOTS)
    rooms = (c.layout.kind == solids.ROOM)[..., None]
    material = torch.where(rooms, first + walls, material)
    ceiling = torch.where(rooms[..., 0], 2 * c.layout.size[..., 2], 0.0).amax(1)
    ceiling = torch.where(ceiling > 0, ceiling, torch.inf)
    lights = random_lights(dice, c.still.eye, c.still.target, c.still.outdoors, ceiling)
    world_from_part = c.world_from_part()
    group = torch.where(c.body() < BODIES, c.body(), BODIES + torch.arange(P)).expand(B, -1)
    occluders, of_part = _occluders(c, group)
    V = c.seconds.shape[1]
    world_from_occluder = world_from_part.gather(2, of_part[:, None, :, None, None].expand(-1, V, -1, 4, 4))
    worlds = Worlds(c.layout.kind, c.layout.size, group, material, materials, occluders, lights, patterns.library())
    return RandomScenes(
        worlds, c.focal, c.seconds, c.world_from_cam, world_from_part, world_from_occluder, c.part_moves
    )


def _occluders(c: Candidates, group: Tensor) -> tuple[Occluders, Tensor]:
    """The largest parts of each body and the still things that look largest; and (B, O) which parts those are."""
    B, P = c.layout.kind.shape
    half = solids.bounds(c.layout.kind, c.layout.size)
    away = torch.linalg.vector_norm(c.layout.pose[..., :3, 3] - c.still.eye[:, None], dim=-1)
    flat = torch.zeros(B, P, dtype=torch.bool)
    for style in (GROUND, FLOOR, ROAD, PICTURE):
        flat |= c.layout.style == style
    useful = (c.layout.kind != solids.EMPTY) & ~torch.isinf(half[..., 0]) & ~flat
    score = torch.where(useful, half.amax(-1).clamp_max(5) / away.clamp_min(0.3), -1.0)
    score[:, : BODIES * SLOTS] = -1.0
    still = score.topk(_STILL_SHADOWS, dim=1).indices
    body = torch.arange(BODIES) * SLOTS
    # Torso and legs of a person; body and cabin of a car; the first two solids of an assembly.
    of_part = torch.cat([body.expand(B, -1), (body + 1).expand(B, -1), still], dim=1)
    exists = c.layout.kind.gather(1, of_part) != solids.EMPTY
    half = half.gather(1, of_part[..., None].expand(-1, -1, 3)) * exists[..., None]
    half = torch.where(torch.isinf(half), 0.0, half)
    kind = c.layout.kind.gather(1, of_part)
    box = (kind == solids.BOX) | (kind == solids.PRISM) | (kind == solids.CYLINDER)
    return Occluders(half, box, group.gather(1, of_part)), of_part
