"""The still worlds of a batch of scenes: rooms, streets, hills and heaps of clutter, each family drawn by chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.random_worlds.layout import (
    COMPACT,
    FACADE,
    FLOOR,
    GROUND,
    LEAF,
    METAL,
    PICTURE,
    ROAD,
    STONE,
    THING,
    WALL,
    WOOD,
    Backdrop,
    Dice,
    RoomLayout,
    height_of,
    only,
    points,
    random_things,
    scaled,
    solids_of,
    turn_by,
    turn_z,
)


def room(dice: Dice, n: int) -> Backdrop:
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
    return Backdrop(RoomLayout.joined(parts), eye, target, inside, (0.5, 0.1, 0.4), (True, False))


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


def street(dice: Dice, n: int) -> Backdrop:
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
    return Backdrop(RoomLayout.joined(parts), eye, target, outside, (0.35, 0.5, 0.15), (True, True))


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


def terrain(dice: Dice, n: int) -> Backdrop:
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
    return Backdrop(RoomLayout.joined(parts), eye, target, outside, (0.5, 0.15, 0.35), (True, True))


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


def clutter(dice: Dice, n: int) -> Backdrop:
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
    return Backdrop(
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


FAMILIES: tuple[tuple[Callable[[Dice, int], Backdrop], float], ...] = (
    (room, 0.36),
    (street, 0.2),
    (terrain, 0.14),
    (clutter, 0.3),
)


@dataclass(frozen=True)
class StillWorlds:
    layout: RoomLayout
    eye: Tensor  # (B, 3) of the camera half way
    target: Tensor  # (B, 3) looked at half way
    outdoors: Tensor  # (B,) bool
    bodies: Tensor  # (B, 3) how likely what moves is a person, a car, a thing
    life_size: Tensor  # (B, 2) bool: people, cars; else they are toys

    def ground(self, place: Tensor) -> Tensor:
        """(B, G) height of the ground below points (B, G, 3)."""
        hilly = self.layout.kind[:, :1] == solids.TERRAIN
        size = [self.layout.size[:, :1, k] for k in range(4)]
        size[1] = torch.where(hilly, size[1], 1.0)
        return torch.where(hilly, solids.hills(size, place[..., 0], place[..., 1]), 0.0)


def random_still_worlds(dice: Dice, count: int) -> StillWorlds:
    family = dice.pick([share for _, share in FAMILIES], count)
    made = [make(dice, int((family == k).sum())) for k, (make, _) in enumerate(FAMILIES) if bool((family == k).any())]
    order = torch.argsort(torch.argsort(family, stable=True), stable=True)  # back from family by family
    return StillWorlds(
        RoomLayout(
            *(_padded([getattr(one.layout, field.name) for one in made])[order] for field in fields(RoomLayout))
        ),
        *(torch.cat([getattr(one, name) for one in made])[order] for name in ("eye", "target", "outdoors")),
        *(
            torch.cat([torch.tensor(getattr(one, name)).expand(len(one.eye), -1) for one in made])[order]
            for name in ("bodies", "life_size")
        ),
    )


def _padded(tensors: list[Tensor]) -> Tensor:
    """Concatenated along the scenes, with empty slots up to the longest along the parts."""
    most = max(t.shape[1] for t in tensors)
    padded = []
    for t in tensors:
        filler = torch.zeros((t.shape[0], most - t.shape[1], *t.shape[2:]), dtype=t.dtype)
        if t.dim() == 4:
            filler = filler + torch.eye(4)
        padded.append(torch.cat([t, filler], dim=1))
    return torch.cat(padded)
