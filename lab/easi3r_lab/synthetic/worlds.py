"""A batch of scenes as tensors: what the renderer takes, whether a preset or random training scenes.

World frame: z up, metres (REP-103). Camera frame: x right, y down, z forward. Every part is one rigid solid.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_lab.synthetic.textures import TextureBank

FACES = 6


@dataclass(frozen=True)
class _Tensors:
    """Moves all its tensors, and what holds tensors, to a device."""

    def to(self, device: torch.device | str):
        moved = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(value.to(device) for value in moved))


@dataclass(frozen=True)
class Materials(_Tensors):
    """R kinds of surface: albedo = bias + mix @ texel, times 1 + blotch * (last channel of a coarser texture - 0.5)."""

    texture: Tensor  # (R,) int64, in the bank
    metres: Tensor  # (R,) length of the texture's side on the surface
    turn: Tensor  # (R, 2) cosine and sine of the texture's rotation
    shift: Tensor  # (R, 2) texture sides
    bias: Tensor  # (R, 3)
    mix: Tensor  # (R, 3, 3)
    blotches: Tensor  # (R,) int64, the coarser texture
    blotch: Tensor  # (R,) its strength, 0: none
    gloss: Tensor  # (R,) how much sky and highlight the surface mirrors, 0..1


@dataclass(frozen=True)
class Lights(_Tensors):
    """The light of B scenes: one lamp or sun, light from everywhere, and a sky."""

    position: Tensor  # (B, 3) world, metres; of a sun: the direction towards it
    sun: Tensor  # (B,) bool: light from infinitely far
    lamp: Tensor  # (B, 3) irradiance on a facing surface, of a lamp: at `reach`
    ambient: Tensor  # (B, 3)
    reach: Tensor  # (B,) metres; beyond it a lamp fades
    contact: Tensor  # (B,) how much light the things around a point take from it, 0..1
    shadow: Tensor  # (B,) how dark cast shadows are, 0: none, 1: the lamp is gone
    softness: Tensor  # (B,) share of an occluder's size over which its shadow's edge fades
    zenith: Tensor  # (B, 3) radiance of the sky above
    horizon: Tensor  # (B, 3) and at the horizon
    clouds: Tensor  # (B,) strength of the clouds


@dataclass(frozen=True)
class Occluders(_Tensors):
    """O boxes or ellipsoids per scene that stand for its objects where shadows are computed; half 0: unused."""

    half: Tensor  # (B, O, 3) metres
    box: Tensor  # (B, O) bool, else an ellipsoid
    group: Tensor  # (B, O) int64, the object that it stands for


@dataclass(frozen=True)
class Worlds(_Tensors):
    """B scenes of P parts."""

    kind: Tensor  # (B, P) int64, of solids.KINDS, or EMPTY
    size: Tensor  # (B, P, 4) float32
    group: Tensor  # (B, P) int64, the object that the part belongs to
    material: Tensor  # (B, P, FACES) int64, row of `materials` for each face
    materials: Materials
    occluders: Occluders
    lights: Lights
    bank: TextureBank


@dataclass(frozen=True)
class Shots(_Tensors):
    """N pictures of the scenes of a `Worlds`."""

    scene: Tensor  # (N,) int64
    K: Tensor  # (N, 3, 3) pixels
    world_from_cam: Tensor  # (N, 4, 4)
    world_from_part: Tensor  # (N, P, 4, 4)
    world_from_occluder: Tensor  # (N, O, 4, 4)

    def __len__(self) -> int:
        return len(self.scene)

    def split(self, count: int) -> list[Shots]:
        """The pictures, `count` at a time."""
        columns = (getattr(self, field.name).split(count) for field in fields(self))
        return [Shots(*some) for some in zip(*columns, strict=True)]
