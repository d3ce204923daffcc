"""Bodies put before the camera: which, how large, where, and how they go."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from easi3r_lab.synthetic.random_worlds.bodies import ASSEMBLY, BODIES, CAR, SLOTS, WALKER, Limbs, Travel, random_bodies
from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.layout import RoomLayout, only
from easi3r_lab.synthetic.random_worlds.still import StillWorlds

STILL_SHARE = 0.4  # of the scenes


@dataclass(frozen=True)
class PlacedBodies:
    layout: RoomLayout
    limbs: Limbs
    wears: Tensor  # (B, G * SLOTS) slot whose material each part has
    travel: Travel
    moves: Tensor  # (B, G) bool: exists and moves


def place_bodies(
    dice: Dice, still: StillWorlds, middle: Tensor, distance: Tensor, focal: Tensor, step: Tensor
) -> PlacedBodies:
    """middle: (B, 4, 4) world_from_cam half way; distance: (B,) median depth; focal: (B,) share of the width;
    step: (B,) mean seconds between views."""
    B, G = len(distance), BODIES
    kinds = torch.searchsorted(still.bodies.cumsum(1), dice.uniform(0, 1, B, G)).clamp_max(ASSEMBLY)
    far = distance[:, None] * dice.uniform(0.3, 0.95, B, G)
    before_camera = _before_camera(dice, middle, far, focal)
    scale = _scale(dice, still, kinds, far)
    layout, limbs, wears = random_bodies(dice, kinds, scale)
    start = _on_ground_or_floating(dice, before_camera, still.ground(before_camera), kinds, scale)
    per_step = far * dice.log_uniform(0.008, 0.15, B, G)
    still_scene = dice.chance(STILL_SHARE, B, 1)
    count = dice.pick([4, 3, 2, 1, 1], B, 1) + 1
    # People and cars stand about in still scenes too: what something is must not tell whether it moves.
    exists = (torch.arange(G) < count) & ~(still_scene & dice.chance(0.4, B, G))
    moves = ~still_scene & (dice.chance(0.8, B, G) | (torch.arange(G) == 0))
    travel = _travel(dice, start, kinds == ASSEMBLY, per_step, moves, step[:, None])
    limbs = Limbs(limbs.joint, limbs.angle, limbs.frequency * (0.25 / step[:, None]), limbs.phase)
    return PlacedBodies(only(layout, exists.repeat_interleave(SLOTS, dim=1)), limbs, wears, travel, moves & exists)


def _before_camera(dice: Dice, middle: Tensor, far: Tensor, focal: Tensor) -> Tensor:
    """(B, G, 3) points in the world that the middle camera sees, `far` (B, G) metres ahead."""
    B, G = far.shape
    angle = dice.uniform(-0.85, 0.85, B, G) * torch.atan(0.5 / focal)[:, None]
    ray = torch.stack([torch.tan(angle), dice.uniform(-0.35, 0.3, B, G), torch.ones(B, G)], dim=-1)
    return (middle[:, None, :3, :3] @ (ray * far[..., None])[..., None])[..., 0] + middle[:, None, :3, 3]


def _scale(dice: Dice, still: StillWorlds, kinds: Tensor, far: Tensor) -> Tensor:
    """(B, G) as `random_bodies` wants it."""
    B, G = far.shape
    toy_car, toy_person = far * dice.uniform(0.08, 0.2, B, G), far * dice.uniform(0.15, 0.5, B, G)
    assembly = far * dice.log_uniform(0.05, 0.3, B, G)
    people, cars = still.life_size[:, :1], still.life_size[:, 1:]
    scale = torch.where(kinds == WALKER, torch.where(people, 1.0, toy_person), assembly)
    return torch.where(kinds == CAR, torch.where(cars, 1.0, toy_car), scale)


def _on_ground_or_floating(dice: Dice, place: Tensor, ground: Tensor, kinds: Tensor, scale: Tensor) -> Tensor:
    """(B, G, 3) places with their heights: only assemblies may float."""
    floating = (kinds == ASSEMBLY) & dice.chance(0.75, *kinds.shape)
    resting = torch.where(kinds == ASSEMBLY, ground + scale * 0.6, ground)
    height = torch.where(floating, torch.maximum(place[..., 2], resting), resting)
    return torch.cat([place[..., :2], height[..., None]], dim=-1)


def _travel(dice: Dice, start: Tensor, free: Tensor, per_step: Tensor, moves: Tensor, second: Tensor) -> Travel:
    """free: (B, G) bool, may also climb and tumble; per_step: (B, G) metres between views; second: (B, 1) the same."""
    B, G = per_step.shape
    heading, turning = dice.uniform(-math.pi, math.pi, B, G), 0.07 * dice.normal(B, G)
    climb = 0.4 * free * dice.normal(B, G) * per_step
    spins = free & dice.chance(0.6, B, G)
    spin = spins[..., None] * dice.direction(B, G) * dice.uniform(0, 0.25, B, G, 1)
    return Travel(start, heading, per_step / second, turning / second, climb / second, spin / second[..., None], moves)
