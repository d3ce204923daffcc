"""What random scenes are laid out with: dice, parts with their poses, and things of every kind.

Random tensors come from one seeded generator, on the CPU whatever the renderer runs on: the same scenes everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.solids import EMPTY


class Dice:
    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """bool, True with the given probability."""
        return torch.rand(shape, generator=self._generator) < probability

    def sign(self, *shape: int) -> Tensor:
        return torch.where(self.chance(0.5, *shape), 1.0, -1.0)

    def pick(self, weights: Tensor | list[float], *shape: int) -> Tensor:
        """int64 index into `weights`, with a probability in proportion to them."""
        weights = torch.as_tensor(weights, dtype=torch.float32)
        count = math.prod(shape)
        return torch.multinomial(weights, count, replacement=True, generator=self._generator).view(shape)

    def direction(self, *shape: int) -> Tensor:
        """(*shape, 3) unit vectors."""
        return torch.nn.functional.normalize(self.normal(*shape, 3), dim=-1)


# What a part is made of: where its pattern, its colours and its grain come from (materials.py).
WALL, FLOOR, GROUND, ROAD, FACADE, THING, CLOTH, SKIN, WOOD, LEAF, METAL, PICTURE, STONE = range(13)
STYLES = 13


@dataclass(frozen=True)
class RoomLayout:
    """P parts in each of B scenes, none of them moving yet."""

    kind: Tensor  # (B, P) int64
    size: Tensor  # (B, P, 4) metres
    pose: Tensor  # (B, P, 4, 4) part in the frame of its body; in the world, for what belongs to none
    style: Tensor  # (B, P) int64

    @staticmethod
    def joined(layouts: list[RoomLayout]) -> RoomLayout:
        """The parts of all, for the same scenes."""
        return RoomLayout(*(torch.cat([getattr(one, f.name) for one in layouts], dim=1) for f in fields(RoomLayout)))


def solids_of(
    kind: Tensor | int, size: list, position: list, rotation: Tensor | None, style: int | Tensor
) -> RoomLayout:
    """A layout from columns that broadcast to (B, P).

    size: up to four columns; position: three columns; rotation: (B, P, 3, 3), None: upright.
    """
    zeros = torch.zeros(torch.broadcast_shapes(*(torch.as_tensor(c).shape for c in (*size, *position))))
    sizes = torch.stack([zeros + c for c in (*size, 0.0, 0.0, 0.0)[:4]], dim=-1)
    place = torch.stack([zeros + c for c in position], dim=-1)
    turn = torch.eye(3).expand(*zeros.shape, 3, 3) if rotation is None else rotation.expand(*zeros.shape, 3, 3)
    return RoomLayout(
        (zeros + kind).long() if isinstance(kind, int) else kind.expand(zeros.shape),
        sizes,
        rigid(turn, place),
        (zeros + style).long() if isinstance(style, int) else style.expand(zeros.shape),
    )


def only(layout: RoomLayout, exists: Tensor) -> RoomLayout:
    """The same with empty slots where not `exists` (B, P)."""
    return RoomLayout(torch.where(exists, layout.kind, EMPTY), layout.size, layout.pose, layout.style)


def rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """(..., 4, 4) from (..., 3, 3) and (..., 3)."""
    pose = torch.zeros((*rotation.shape[:-2], 4, 4), dtype=rotation.dtype)
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = rotation, translation, 1.0
    return pose


def turn_z(angle: Tensor) -> Tensor:
    """(..., 3, 3) yaw."""
    c, s, o, i = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, o, s, c, o, o, o, i], dim=-1).unflatten(-1, (3, 3))


def turn_y(angle: Tensor) -> Tensor:
    """(..., 3, 3) pitch."""
    c, s, o, i = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, o, s, o, i, o, -s, o, c], dim=-1).unflatten(-1, (3, 3))


def turn_by(vector: Tensor) -> Tensor:
    """(..., 3, 3) rotation about a vector by its length in radians (Rodrigues)."""
    angle = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)[..., None]
    x, y, z = (vector / angle[..., 0].clamp_min(1e-9)).unbind(-1)
    o = torch.zeros_like(x)
    hat = torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).unflatten(-1, (3, 3))
    return torch.eye(3) + torch.sin(angle) * hat + (1 - torch.cos(angle)) * (hat @ hat)


COMPACT = torch.tensor([solids.BOX, solids.ELLIPSOID, solids.CYLINDER, solids.CAPSULE, solids.PRISM])
_STYLES = torch.tensor([THING, THING, WOOD, CLOTH, METAL, PICTURE, STONE])


@dataclass(frozen=True)
class Backdrop:
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
