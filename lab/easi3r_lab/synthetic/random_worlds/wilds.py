"""Hills, and heaps of clutter."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.layout import (
    FACADE,
    FLOOR,
    GROUND,
    STONE,
    WALL,
    WOOD,
    RoomLayout,
    only,
    solids_of,
    turn_by,
    turn_z,
)
from easi3r_lab.synthetic.random_worlds.streets import trees
from easi3r_lab.synthetic.random_worlds.things import Surroundings, height_of, points, random_things, scaled


def terrain(dice: Dice, n: int) -> Surroundings:
    """Hills with stones, trees, huts and posts."""
    amplitude, wavelength = dice.log_uniform(0.15, 2.2, n, 1), dice.uniform(7, 22, n, 1)
    size = [amplitude, wavelength, dice.uniform(0, 6.3, n, 1), 90.0]
    ground = solids_of(solids.TERRAIN, size, [0.0, 0.0, 0.0], None, GROUND)

    def level(x: Tensor, y: Tensor) -> Tensor:
        return solids.hills(size, x, y)

    kind, stone_size, style = random_things(dice, (n, 16), 0.15, 0.9)
    x, y = dice.uniform(1.5, 22, n, 16), dice.uniform(-8, 8, n, 16)
    style = torch.where(dice.chance(0.6, n, 16), STONE, style)
    at = [x, y, level(x, y) + 0.6 * height_of(kind, stone_size)]
    stones = solids_of(kind, list(stone_size.unbind(-1)), at, turn_by(0.5 * dice.normal(n, 16, 3)), style)
    wood = trees(dice, n, 9, lambda: dice.uniform(1.5, 9, n, 9))
    lifted = wood.pose.clone()
    lifted[..., 2, 3] += level(lifted[..., 0, 3], lifted[..., 1, 3]) - 0.2
    wood = RoomLayout(wood.kind, wood.size, lifted, wood.style)
    huts, roofs = _huts(dice, n, level)
    px, py = dice.uniform(2, 15, n, 6), dice.uniform(-5, 5, n, 6)
    posts = solids_of(solids.CYLINDER, [dice.uniform(0.04, 0.12, n, 6), 0.8], [px, py, level(px, py) + 0.6], None, WOOD)
    exists = dice.chance(0.6, n, 3)
    parts = [ground, stones, wood, only(huts, exists), only(roofs, exists), only(posts, dice.chance(0.6, n, 6))]
    ex, ey = dice.uniform(-3, 0, n, 1), dice.uniform(-2, 2, n, 1)
    eye = points(ex, ey, level(ex, ey) + dice.uniform(0.9, 2.6, n, 1))
    tx, ty = dice.uniform(5, 14, n, 1), dice.uniform(-4, 4, n, 1)
    target = points(tx, ty, level(tx, ty) + dice.uniform(-0.3, 1.5, n, 1))
    outside = torch.ones(n, dtype=torch.bool)
    return Surroundings(RoomLayout.joined(parts), eye, target, outside, (0.5, 0.15, 0.35), (True, True))


def _huts(dice: Dice, n: int, level: Callable[[Tensor, Tensor], Tensor]) -> tuple[RoomLayout, RoomLayout]:
    """Walls and roofs."""
    x, y = dice.uniform(6, 24, n, 3), dice.uniform(-9, 9, n, 3)
    a, b, c = dice.uniform(0.8, 2.5, n, 3), dice.uniform(0.8, 2.5, n, 3), dice.uniform(0.8, 1.8, n, 3)
    turn = turn_z(dice.uniform(0, 3, n, 3))
    huts = solids_of(solids.BOX, [a, b, c], [x, y, level(x, y) + c - 0.2], turn, FACADE)
    apothem = 1.1 * torch.maximum(a, b)
    roofs = solids_of(
        solids.PRISM, [4.0, apothem, 0.6, 0.75 * apothem / 1.2], [x, y, level(x, y) + 2 * c + 0.4], turn, STONE
    )
    return huts, roofs


def clutter(dice: Dice, n: int) -> Surroundings:
    """A heap of things of every orientation, on a floor and before walls or under a sky; from doll's house to hall."""
    scale = dice.log_uniform(0.3, 2.5, n, 1)
    backdrop = _backdrop(dice, n, scale)
    heaps = []
    for count, low, high in ((26, 0.05, 0.3), (6, 0.2, 0.7)):
        kind, size, style = random_things(dice, (n, count), low, high)
        size = scaled(kind, size, scale)
        upright = dice.chance(0.4, n, 1)
        turn = torch.where(
            upright[..., None, None],
            turn_z(dice.uniform(0, 6.3, n, count)),
            turn_by(math.pi * dice.direction(n, count) * dice.uniform(0, 1, n, count, 1)),
        )
        z = torch.where(upright, height_of(kind, size), dice.uniform(0.05, 1.7, n, count) * scale)
        at = [dice.uniform(0.9, 3.4, n, count) * scale, dice.uniform(-1.7, 1.7, n, count) * scale, z]
        heaps.append(only(solids_of(kind, list(size.unbind(-1)), at, turn, style), dice.chance(0.8, n, count)))
    eye = points(dice.uniform(-0.8, 0.2, n, 1), dice.uniform(-0.7, 0.7, n, 1), dice.uniform(0.5, 1.7, n, 1))
    target = points(dice.uniform(1.6, 2.6, n, 1), dice.uniform(-0.6, 0.6, n, 1), dice.uniform(0.2, 0.9, n, 1))
    open_air = (backdrop[1].kind == solids.EMPTY)[:, 0]
    return Surroundings(
        RoomLayout.joined([*backdrop, *heaps]), eye * scale, target * scale, open_air, (0.15, 0.2, 0.65), (False, False)
    )


def _backdrop(dice: Dice, n: int, scale: Tensor) -> list[RoomLayout]:
    """Floor, wall behind, wall beside; none of them always."""
    floor = solids_of(solids.BOX, [12.0 * scale, 12.0 * scale, 0.2 * scale], [0.0, 0.0, -0.2 * scale], None, FLOOR)
    far, slant = dice.uniform(3.2, 5.5, n, 1) * scale, turn_z(dice.uniform(-0.6, 0.6, n, 1))
    back = solids_of(solids.BOX, [0.2 * scale, 12 * scale, 6 * scale], [far, 0.0, 0.0], slant, WALL)
    aside = dice.sign(n, 1) * dice.uniform(1.6, 3.5, n, 1) * scale
    beside = solids_of(solids.BOX, [12 * scale, 0.2 * scale, 6 * scale], [0.0, aside, 0.0], None, WALL)
    return [
        only(floor, dice.chance(0.9, n, 1)),
        only(back, dice.chance(0.75, n, 1)),
        only(beside, dice.chance(0.4, n, 1)),
    ]
