"""Parts of a batch of scenes while they are being laid out, and the poses of solids."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_lab.synthetic.solids import EMPTY

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
