"""What the matching heads are taught, and how they start.

Without this supervision a small network does not find correspondences at all; with it, in minutes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from easi3r_ros.core.dust3r.network import Dust3rNetwork


@torch.no_grad()
def start_as_similarity(network: Dust3rNetwork) -> None:
    """Wk = Wq in every cross-attention: before any training, a token attends to what resembles it."""
    for block in [*network.dec_blocks, *network.dec_blocks2]:
        block.cross_attn.projk.weight.copy_(block.cross_attn.projq.weight)


def token_targets(pixels: Tensor, grid: tuple[int, int], patch: int) -> tuple[Tensor, Tensor]:
    """The tokens around positions in an image and their bilinear weights.

    pixels: (..., 2) positions (u, v), pixel centres at integers. Returns indices (..., 4) int64 and weights (..., 4)
    that sum to 1; positions outside are moved to the border.
    """
    rows, columns = grid
    position = (pixels + 0.5) / patch - 0.5  # in tokens, token centres at integers
    x = position[..., 0].clamp(0, columns - 1)
    y = position[..., 1].clamp(0, rows - 1)
    x0, y0 = x.floor().clamp(max=max(columns - 2, 0)), y.floor().clamp(max=max(rows - 2, 0))
    fx, fy = x - x0, y - y0
    base = (y0 * columns + x0).long()
    indices = torch.stack((base, base + 1, base + columns, base + columns + 1), dim=-1).clamp(max=rows * columns - 1)
    weights = torch.stack(((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy), dim=-1)
    return indices, weights
