"""Many seamless textures in one tensor, looked up without aliasing through their mip maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TextureBank:
    texels: Tensor  # (sum of all S_k^2, 3) float32, linear albedo or whatever the channels mean, level after level
    starts: Tensor  # (n, L) int64, first texel of each level; short pyramids repeat their last level
    sides: Tensor  # (n,) int64, texels along a side of the finest level, powers of two

    def sample(self, index: Tensor, turns: Tensor, footprint: Tensor) -> Tensor:
        """(N, 3), trilinear. index: (N,) texture; turns: (N, 2) place, 1 = the texture's side; footprint: (N,) length
        that a ray covers there, in the same unit."""
        side = self.sides[index]
        level = torch.log2((footprint * side).clamp_min(1.0))
        level = torch.minimum(level, torch.log2(side.to(level.dtype)) - 0.001)
        fine = level.long()
        blend = (level - fine).to(turns.dtype)[:, None]
        near = self._bilinear(index, turns, side, fine)
        return near + blend * (self._bilinear(index, turns, side, fine + 1) - near)

    def _bilinear(self, index: Tensor, turns: Tensor, side: Tensor, level: Tensor) -> Tensor:
        side = side >> level
        start = self.starts.flatten()[index * self.starts.shape[1] + level]
        x, y = (turns[:, axis] * side - 0.5 for axis in (0, 1))
        x_floor, y_floor = x.floor(), y.floor()
        fx, fy = (x - x_floor)[:, None], (y - y_floor)[:, None]
        x0, y0, wrap = x_floor.long(), y_floor.long(), side - 1
        upper_row, lower_row = start + (y0 & wrap) * side, start + ((y0 + 1) & wrap) * side
        left, right = x0 & wrap, (x0 + 1) & wrap
        upper = torch.lerp(self._at(upper_row + left), self._at(upper_row + right), fx)
        lower = torch.lerp(self._at(lower_row + left), self._at(lower_row + right), fx)
        return torch.lerp(upper, lower, fy)

    def _at(self, texel: Tensor) -> Tensor:
        return self.texels.index_select(0, texel)

    def to(self, device: torch.device | str) -> TextureBank:
        return TextureBank(self.texels.to(device), self.starts.to(device), self.sides.to(device))


def mip_maps(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """The levels of a seamless (S, S, 3) image, S a power of two: float32, finest first, down to one texel."""
    levels = [image.astype(np.float32)]
    while levels[-1].shape[0] > 1:
        half = levels[-1].shape[0] // 2
        levels.append(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA).reshape(half, half, 3))
    return tuple(levels)


def bank_of(pyramids: Sequence[Sequence[np.ndarray]]) -> TextureBank:
    """A bank of textures, each given by its `mip_maps`."""
    texels, starts, first = [], [], 0
    for pyramid in pyramids:
        rows = []
        for level in pyramid:
            rows.append(first)
            texels.append(level.reshape(-1, 3))
            first += len(texels[-1])
        starts.append(rows)
    longest = max(len(rows) for rows in starts)
    padded = [rows + rows[-1:] * (longest - len(rows)) for rows in starts]
    sides = torch.tensor([pyramid[0].shape[0] for pyramid in pyramids])
    return TextureBank(torch.from_numpy(np.concatenate(texels).astype(np.float32)), torch.tensor(padded), sides)
