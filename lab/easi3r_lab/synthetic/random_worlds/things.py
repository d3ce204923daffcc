"""What every family of surroundings is furnished with, and what a family gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.layout import CLOTH, METAL, PICTURE, STONE, THING, WOOD, RoomLayout

COMPACT = torch.tensor([solids.BOX, solids.ELLIPSOID, solids.CYLINDER, solids.CAPSULE, solids.PRISM])
_STYLES = torch.tensor([THING, THING, WOOD, CLOTH, METAL, PICTURE, STONE])


@dataclass(frozen=True)
class Surroundings:
    layout: RoomLayout
    eye: Tensor  # (B, 3) of the camera half way, world
    target: Tensor  # (B, 3) point looked at half way
    outdoors: Tensor  # (B,) bool: under a sky and a sun
    bodies: tuple[float, float, float]  # how likely what moves is a person, a car, a thing
    life_size: tuple[bool, bool]  # people, cars; else they are toys


def random_things(dice: Dice, count: tuple[int, int], low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Kind (B, n), size (B, n, 4) and style (B, n) of compact things with half lengths between two values, metres."""
    kind = COMPACT[dice.pick([5, 2, 2, 1, 2], *count)]
    size = dice.log_uniform(low, high, *count, 3)
    sides, taper = dice.pick([1, 1, 1, 1], *count) + 3.0, dice.uniform(0, 0.4, *count) * dice.chance(0.5, *count)
    taper = torch.minimum(taper, 0.45 * size[..., 0] / size[..., 2])
    prism = torch.stack([sides, size[..., 0], size[..., 2], taper], dim=-1)
    long = torch.stack([size[..., 0].clamp_max(0.6 * high), size[..., 2]], dim=-1)
    size = torch.cat([size, torch.zeros_like(size[..., :1])], dim=-1)
    size[..., :2] = torch.where(((kind == solids.CAPSULE) | (kind == solids.CYLINDER))[..., None], long, size[..., :2])
    size = torch.where((kind == solids.PRISM)[..., None], prism, size)
    return kind, size, _STYLES[dice.pick([1.0] * len(_STYLES), *count)]


def height_of(kind: Tensor, size: Tensor) -> Tensor:
    """(...) half height of upright solids."""
    return solids.bounds(kind, size)[..., 2]


def scaled(kind: Tensor, size: Tensor, scale: Tensor) -> Tensor:
    """(..., 4) sizes of solids made larger; a prism's number of sides and its taper are no lengths."""
    s, one = scale.expand(kind.shape), torch.ones_like(size[..., 0])
    factor = torch.where((kind == solids.PRISM)[..., None], torch.stack([one, s, s, one], dim=-1), s[..., None])
    return size * factor


def points(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """(B, 3) from columns (B, 1)."""
    return torch.cat([x, y, z], dim=1)
