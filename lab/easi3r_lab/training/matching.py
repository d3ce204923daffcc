"""Matches from cross-attention: one head per decoder layer learns where each token is in the other view.

Without this supervision a small network does not find correspondences at all; with it, in minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from easi3r_ros.core.dust3r.network import CrossAttention, Dust3rNetwork, RotaryTable

MATCHING_HEAD = 0


def head_logits(attention: CrossAttention, x: Tensor, memory: Tensor, rotary: RotaryTable) -> Tensor:
    """Logits (B, queries, keys) of the matching head alone, float32. x, memory: (B, N, C), inputs of the attention."""
    width = x.shape[-1] // attention.heads
    rows = slice(MATCHING_HEAD * width, (MATCHING_HEAD + 1) * width)
    q, k = (
        F.linear(tokens, layer.weight[rows], layer.bias[rows])
        for tokens, layer in ((x, attention.projq), (memory, attention.projk))
    )
    return rotary.rotate(q) @ rotary.rotate(k).mT * width**-0.5


@contextmanager
def recorded_matching(network: Dust3rNetwork) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Two lists, filled while the network decodes: the matching logits of every layer of tower 1 and of tower 2."""
    towers: tuple[list[Tensor], list[Tensor]] = ([], [])
    handles = []
    for logits, blocks in zip(towers, (network.dec_blocks, network.dec_blocks2), strict=True):
        for block in blocks:
            # A default argument, since a closure would see only the last tower's list.
            def record(module: CrossAttention, args: tuple, logits: list[Tensor] = logits) -> None:
                logits.append(head_logits(module, *args[:3]))

            handles.append(block.cross_attn.register_forward_pre_hook(record))
    try:
        yield towers
    finally:
        for handle in handles:
            handle.remove()


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
