"""Every n-th pixel of pairs, masks and intrinsics, and depth back at full size: for backbones without finer detail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from easi3r_ros.core.types import AlignedFrame, PairGeometry


def thin(values: torch.Tensor, stride: int) -> torch.Tensor:
    """(h, w, ...) -> (h // stride, w // stride, ...): pixel i of the thin map is pixel stride * i + stride // 2."""
    step = slice(stride // 2, None, stride)
    height, width = values.shape[0] // stride, values.shape[1] // stride
    return values[step, step][:height, :width]


def thin_pair(pair: PairGeometry, stride: int) -> PairGeometry:
    names = ("points_a", "points_b", "conf_a", "conf_b")
    return replace(pair, **{name: thin(getattr(pair, name), stride) for name in names})


def thin_intrinsics(K: np.ndarray, stride: int) -> np.ndarray:
    """(3, 3) K in pixels of the image -> of the thin maps."""
    out = K.copy()
    out[:2, 2] -= stride // 2
    out[:2] /= stride
    return out


def expand(aligned: AlignedFrame, stride: int, shape: tuple[int, int], K: np.ndarray) -> AlignedFrame:
    """A frame aligned on thin maps, at full size (h, w): every pixel has the value of the nearest thin one."""
    rows, columns = (
        torch.clamp(torch.arange(full) // stride, max=size - 1)
        for full, size in zip(shape, aligned.depth.shape, strict=True)
    )
    index = rows[:, None].to(aligned.depth.device), columns[None].to(aligned.depth.device)
    return replace(aligned, K=K, depth=aligned.depth[index], confidence=aligned.confidence[index])
