"""Furnished rooms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.layout import PICTURE, THING, WALL, WOOD, RoomLayout, only, solids_of, turn_z
from easi3r_lab.synthetic.random_worlds.things import COMPACT, Surroundings, height_of, points, random_things


def room(dice: Dice, n: int) -> Surroundings:
    """Four walls, furniture along them, things on the furniture, prints on the walls, lamps."""
    half_x, half_y, half_z = dice.uniform(1.7, 4.2, n, 1), dice.uniform(1.6, 3.6, n, 1), dice.uniform(1.2, 1.7, n, 1)
    shell = solids_of(solids.ROOM, [half_x, half_y, half_z], [0.0, 0.0, half_z], None, WALL)
    parts = [shell, *_furniture(dice, n, half_x, half_y)]
    eye = points(
        -dice.uniform(0.3, 0.85, n, 1) * half_x, dice.uniform(-0.6, 0.6, n, 1) * half_y, dice.uniform(0.6, 1.9, n, 1)
    )
    target = points(
        dice.uniform(0.2, 1.0, n, 1) * half_x, dice.uniform(-0.8, 0.8, n, 1) * half_y, dice.uniform(0.3, 1.5, n, 1)
    )
    parts += [_on_walls(dice, n, half_x, half_y), _table(dice, n, half_x, half_y)]
    parts.append(_hanging(dice, n, half_x, half_y, half_z))
    inside = torch.zeros(n, dtype=torch.bool)
    return Surroundings(RoomLayout.joined(parts), eye, target, inside, (0.5, 0.1, 0.4), (True, False))


def _furniture(dice: Dice, n: int, half_x: Tensor, half_y: Tensor) -> tuple[RoomLayout, RoomLayout]:
    """Large things, many of them along a wall, and small ones upon those that are flat."""
    kind, size, style = random_things(dice, (n, 12), 0.16, 0.62)
    size[..., :3] = torch.where(
        (kind == solids.BOX)[..., None], size[..., :3] * torch.tensor([1.2, 1.0, 1.3]), size[..., :3]
    )
    x, y = dice.uniform(-0.95, 0.95, n, 12) * half_x, dice.uniform(-0.95, 0.95, n, 12) * half_y
    at_side, at_end = dice.chance(0.35, n, 12), dice.chance(0.35, n, 12)
    y = torch.where(at_side, dice.sign(n, 12) * (half_y - 0.3), y)
    x = torch.where(at_end & ~at_side, half_x - 0.35, x)
    rise = height_of(kind, size)
    turn = turn_z(torch.where(at_side | at_end, 0.0, 1.0) * dice.uniform(0, math.pi, n, 12))
    furniture = solids_of(kind, list(size.unbind(-1)), [x, y, rise], turn, style)
    small_kind, small_size, small_style = random_things(dice, (n, 12), 0.05, 0.2)
    top = 2 * rise + height_of(small_kind, small_size)
    upon = solids_of(
        small_kind,
        list(small_size.unbind(-1)),
        [x + 0.1 * dice.normal(n, 12), y + 0.1 * dice.normal(n, 12), top],
        turn_z(dice.uniform(0, 6, n, 12)),
        small_style,
    )
    return furniture, only(upon, (kind != solids.ELLIPSOID) & (kind != solids.CAPSULE))


def _on_walls(dice: Dice, n: int, half_x: Tensor, half_y: Tensor) -> RoomLayout:
    """Prints, doors and windows on the far wall and the two beside it."""
    wall = dice.pick([2, 1, 1], n, 7)
    end = wall == 0
    side = torch.where(wall == 1, 1.0, -1.0)
    x = torch.where(end, half_x, dice.uniform(-0.9, 0.9, n, 7) * half_x)
    y = torch.where(end, dice.uniform(-0.85, 0.85, n, 7) * half_y, side * half_y)
    width, height = dice.log_uniform(0.15, 0.7, n, 7), dice.log_uniform(0.15, 0.8, n, 7)
    z = torch.maximum(dice.uniform(0.6, 1.9, n, 7), height + 0.02)
    thick = dice.uniform(0.01, 0.05, n, 7)
    size = [torch.where(end, thick, width), torch.where(end, width, thick), height]
    return solids_of(solids.BOX, size, [x, y, z], None, PICTURE)


def _table(dice: Dice, n: int, half_x: Tensor, half_y: Tensor) -> RoomLayout:
    """A top on four legs, with two things on it."""
    x, y = dice.uniform(-0.2, 0.7, n, 1) * half_x, dice.uniform(-0.7, 0.7, n, 1) * half_y
    a, b, height = dice.uniform(0.3, 0.8, n, 1), dice.uniform(0.25, 0.5, n, 1), dice.uniform(0.4, 0.8, n, 1)
    top = solids_of(solids.BOX, [a, b, 0.025], [x, y, height], None, WOOD)
    across, along = torch.tensor([[-0.88, -0.88, 0.88, 0.88]]), torch.tensor([[-0.88, 0.88, -0.88, 0.88]])
    legs = solids_of(
        solids.CYLINDER,
        [dice.uniform(0.02, 0.05, n, 1), height / 2],
        [x + across * a, y + along * b, height / 2],
        None,
        WOOD,
    )
    kind, size, style = random_things(dice, (n, 3), 0.04, 0.15)
    at = [
        x + dice.uniform(-0.8, 0.8, n, 3) * a,
        y + dice.uniform(-0.8, 0.8, n, 3) * b,
        height + 0.025 + height_of(kind, size),
    ]
    return RoomLayout.joined([top, legs, solids_of(kind, list(size.unbind(-1)), at, None, style)])


def _hanging(dice: Dice, n: int, half_x: Tensor, half_y: Tensor, half_z: Tensor) -> RoomLayout:
    """Lamps and the like below the ceiling."""
    kind = COMPACT[dice.pick([1, 2, 2, 0, 1], n, 3)]
    a, b = dice.uniform(0.08, 0.3, n, 3), dice.uniform(0.05, 0.2, n, 3)
    size = [torch.where(kind == solids.PRISM, 4.0, a), torch.where(kind == solids.CYLINDER, b, a), b]
    at = [dice.uniform(-0.2, 0.9, n, 3) * half_x, dice.uniform(-0.8, 0.8, n, 3) * half_y, 2 * half_z - b]
    return only(solids_of(kind, size, at, None, THING), dice.chance(0.6, n, 3))
