"""Matches from cross-attention: one head per decoder layer of `tiny` was trained to say where each token is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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


@dataclass(frozen=True)
class TokenMatches:
    """Where the tokens of a are in b, for one pair."""

    pixels: Tensor  # (N, 2) float32 positions (u, v) in b, pixel centres at integers
    weight: Tensor  # (N,) float32 in [0, 1]: how sure both views are


def token_matches(towards: Sequence[Tensor], back: Sequence[Tensor], grid: tuple[int, int], patch: int) -> TokenMatches:
    """From the matching logits of one pair, per layer: towards (N of a, N of b), back (N of b, N of a).

    A match counts as far as both views agree on it (dual softmax, as LoFTR). Its place is the mean of the 3 x 3 tokens
    around the best one under a's own attention, because the product would pull it to the middle of a token.
    """
    there = torch.stack([logits.softmax(-1) for logits in towards]).mean(0)
    mutual = there * torch.stack([logits.softmax(-1) for logits in back]).mean(0).mT  # (N of a, N of b)
    rows, columns = grid
    y = torch.arange(rows, device=mutual.device).repeat_interleave(columns)
    x = torch.arange(columns, device=mutual.device).repeat(rows)
    best = mutual.argmax(-1)
    near = ((y - y[best, None]).abs() <= 1) & ((x - x[best, None]).abs() <= 1)
    share = there * near
    share = share / share.sum(-1, keepdim=True).clamp(min=1e-12)
    centres = torch.stack((share @ x.float(), share @ y.float()), dim=-1)  # in tokens
    return TokenMatches((centres + 0.5) * patch - 0.5, (mutual * near).sum(-1))
