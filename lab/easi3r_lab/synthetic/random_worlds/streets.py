"""Streets between houses."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.layout import (
    FACADE,
    GROUND,
    LEAF,
    METAL,
    PICTURE,
    ROAD,
    STONE,
    THING,
    WOOD,
    RoomLayout,
    only,
    solids_of,
    turn_by,
)
from easi3r_lab.synthetic.random_worlds.things import Surroundings, points


def street(dice: Dice, n: int) -> Surroundings:
    """A road between houses, with trees, poles, signs and parked cars."""
    road, pavement = dice.uniform(2.8, 5.0, n, 1), dice.uniform(1.5, 3.5, n, 1)
    ground = solids_of(solids.BOX, [120.0, 120.0, 0.5 + 0 * road], [20.0, 0.0, -0.53], None, GROUND)
    lanes = solids_of(solids.BOX, [120.0, road, 0.02], [20.0, 0.0, -0.02], None, ROAD)
    stripe = solids_of(solids.BOX, [1.2, 0.07 + 0 * road, 0.005], [torch.arange(8) * 5.0 - 4, 0.0, 0.0], None, PICTURE)
    side = torch.tensor([[-1.0, 1.0]])
    kerbs = solids_of(solids.BOX, [120.0, pavement / 2, 0.1], [20.0, side * (road + pavement / 2), -0.02], None, STONE)
    parts = [ground, lanes, stripe, kerbs]
    edge = road + pavement
    for side in (-1.0, 1.0):
        parts += _houses(dice, n, side, edge)
    parts += [trees(dice, n, 6, lambda: edge), _poles(dice, n, edge), _parked(dice, n, road)]
    eye = points(dice.uniform(-4, 2, n, 1), dice.uniform(-1.1, 1.1, n, 1) * road, dice.uniform(0.9, 2.4, n, 1))
    ahead, aside = dice.uniform(8, 20, n, 1), dice.normal(n, 1) * 3.5
    target = points(eye[:, :1] + ahead, aside, dice.uniform(0.3, 3, n, 1))
    outside = torch.ones(n, dtype=torch.bool)
    return Surroundings(RoomLayout.joined(parts), eye, target, outside, (0.35, 0.5, 0.15), (True, True))


def _houses(dice: Dice, n: int, side: float, edge: Tensor) -> list[RoomLayout]:
    """Along one side of the road, some with roofs. edge: (n, 1) where the pavement ends."""
    length, depth, height = dice.uniform(3, 9, n, 6), dice.uniform(3, 6, n, 6), dice.log_uniform(1.6, 9, n, 6)
    x = -10 + torch.cumsum(2 * length + dice.uniform(0, 6, n, 6) * dice.chance(0.4, n, 6), dim=1) - length
    y = side * (edge + depth + dice.uniform(0, 2.5, n, 6))
    houses = solids_of(solids.BOX, [length, depth, height], [x, y, height], None, FACADE)
    roof_height = dice.uniform(0.6, 1.6, n, 6)
    apothem = torch.minimum(length, depth)
    taper = dice.uniform(0.3, 0.95, n, 6) * apothem / (2 * roof_height)
    roofs = solids_of(solids.PRISM, [4.0, apothem, roof_height, taper], [x, y, 2 * height + roof_height], None, STONE)
    return [only(houses, dice.chance(0.88, n, 6)), only(roofs, dice.chance(0.3, n, 6))]


def trees(dice: Dice, n: int, count: int, edge: Callable[[], Tensor]) -> RoomLayout:
    """Trunks and crowns. edge: what gives how far aside they are at most."""
    x, y = dice.uniform(3, 45, n, count), dice.sign(n, count) * (edge() - dice.uniform(0.3, 1.2, n, count))
    height, crown = dice.uniform(1.0, 2.2, n, count), dice.uniform(0.7, 2.0, n, count)
    trunk = solids_of(solids.CYLINDER, [dice.uniform(0.06, 0.22, n, count), height], [x, y, height], None, WOOD)
    kind = torch.where(dice.chance(0.7, n, count), solids.ELLIPSOID, solids.PRISM)
    cone = [torch.full_like(crown, 6.0), 0.6 * crown, crown, torch.full_like(crown, 0.28)]
    ball = [crown * 0.8, crown * 0.8, crown, torch.zeros_like(crown)]
    size = [torch.where(kind == solids.PRISM, c, b) for c, b in zip(cone, ball, strict=True)]
    crowns = solids_of(kind, size, [x, y, 2 * height + 0.7 * crown], None, LEAF)
    exists = dice.chance(0.6, n, count)
    return RoomLayout.joined([only(trunk, exists), only(crowns, exists)])


def _poles(dice: Dice, n: int, edge: Tensor) -> RoomLayout:
    """With and without signs."""
    x, y = dice.uniform(2, 40, n, 6), dice.sign(n, 6) * (edge - dice.uniform(0.5, 2.0, n, 6))
    height = dice.uniform(1.0, 3.2, n, 6)
    poles = solids_of(solids.CYLINDER, [dice.uniform(0.03, 0.12, n, 6), height], [x, y, height], None, METAL)
    size = [0.03, dice.uniform(0.2, 0.8, n, 6), dice.uniform(0.15, 0.5, n, 6)]
    signs = solids_of(solids.BOX, size, [x - 0.08, y, 2 * height - 0.3], None, PICTURE)
    return RoomLayout.joined([only(poles, dice.chance(0.7, n, 6)), only(signs, dice.chance(0.5, n, 6))])


def _parked(dice: Dice, n: int, road: Tensor) -> RoomLayout:
    """Cars at the kerb: body, cabin, two visible wheels."""
    x, side = dice.uniform(3, 30, n, 3), dice.sign(n, 3)
    y = side * (road - 1.0)
    half, height = dice.uniform(1.7, 2.3, n, 3), dice.uniform(0.35, 0.5, n, 3)
    body = solids_of(solids.BOX, [half, 0.85, height], [x, y, height + 0.3], None, METAL)
    cabin = solids_of(solids.BOX, [half * 0.5, 0.75, 0.3], [x - 0.2, y, 2 * height + 0.55], None, METAL)
    across = turn_by(torch.tensor([math.pi / 2, 0.0, 0.0]))
    wheels = [
        solids_of(solids.CYLINDER, [0.33, 0.86 + 0 * half], [x + end * half * 0.62, y, 0.33], across, THING)
        for end in (-1, 1)
    ]
    exists = dice.chance(0.6, n, 3)
    return RoomLayout.joined([only(one, exists) for one in (body, cabin, *wheels)])
