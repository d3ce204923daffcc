"""Transformer blocks of the network (METHOD 2). Attention logits are never materialised: see `mean_key_logits`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of the 2D rotary embedding of one token grid."""

    cos: Tensor  # (N, D) float32, D: channels per head
    sin: Tensor  # (N, D) float32

    def rotate(self, x: Tensor) -> Tensor:
        """Rotates queries or keys (B, heads, N, D); the answer is float32 whatever `x` is."""
        x = x.float()
        # (..., N, D) -> (..., N, axis y | x, half of the axis, D / 4): each axis rotates its two halves into each other
        first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
        quarter_turn = torch.stack((-second, first), dim=-2).flatten(-3)  # (..., N, D)
        return x * self.cos + quarter_turn * self.sin


def rotary_table(grid: tuple[int, int], head_dim: int, base: float, device: torch.device | None = None) -> RotaryTable:
    """Table of a (rows, columns) grid: the first half of the channels turns with y, the second half with x."""
    rows, columns = grid
    per_axis = head_dim // 2
    exponents = torch.arange(0, per_axis, 2, device=device, dtype=torch.float32) / per_axis
    frequencies = base**-exponents  # (D / 4,)
    y = torch.arange(rows, device=device, dtype=torch.float32).repeat_interleave(columns)  # (N,)
    x = torch.arange(columns, device=device, dtype=torch.float32).repeat(rows)  # (N,)
    angle_y, angle_x = torch.outer(y, frequencies), torch.outer(x, frequencies)  # (N, D / 4)
    angles = torch.cat((angle_y, angle_y, angle_x, angle_x), dim=-1)  # (N, D)
    return RotaryTable(angles.cos(), angles.sin())


@dataclass(frozen=True)
class CrossMask:
    """Which keys the static queries of tower 1 must not see (eq. 10), for the pairs where that changes anything."""

    pairs: Tensor  # (P,) int64, rows of the batch
    dynamic_queries: Tensor  # (P, N) bool, tokens of the reference view a
    dynamic_keys: Tensor  # (P, N) bool, tokens of the source view b

    @staticmethod
    def of(dynamic_a: Tensor, dynamic_b: Tensor) -> CrossMask | None:
        """From token masks (B, N) bool; None if no pair has both a static query and a dynamic key."""
        affected = (~dynamic_a).any(1) & dynamic_b.any(1)
        pairs = affected.nonzero().squeeze(1)
        return CrossMask(pairs, dynamic_a[pairs], dynamic_b[pairs]) if len(pairs) else None


def mean_key_logits(q: Tensor, k: Tensor) -> Tensor:
    """Mean over all queries of q.k / sqrt(D), one value per key: (B, heads, N, D) twice -> (B, N, heads) float32.

    The mean commutes with the product (eq. 4-5), so N x N logits are not needed.
    """
    mean_q = q.float().mean(dim=2) * q.shape[-1] ** -0.5  # (B, heads, D)
    return torch.einsum("bhd,bhnd->bnh", mean_q, k.float())


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v in v's precision: (B, heads, N, D) three times -> (B, N, heads * D)."""
    out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
    return out.transpose(1, 2).flatten(2)


def attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: CrossMask | None) -> Tensor:
    """`attend`, where static queries get nothing from dynamic keys. Zeroed weights without renormalisation (eq. 10)
    are the same as zeroed values, so this costs a second `attend` for the affected pairs and no N x N mask.
    """
    plain = attend(q, k, v)
    if mask is None:
        return plain
    values = v[mask.pairs].masked_fill(mask.dynamic_keys[:, None, :, None], 0)  # (P, heads, N, D)
    static_only = attend(q[mask.pairs], k[mask.pairs], values)  # (P, N, heads * D)
    mixed = torch.where(mask.dynamic_queries[..., None], plain[mask.pairs], static_only)
    return plain.index_copy(0, mask.pairs, mixed)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        packed = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, D)
        q, k, v = packed.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D)
        return self.proj(attend(rotary.rotate(q), rotary.rotate(k), v))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def queries_and_keys(self, x: Tensor, memory: Tensor, rotary: RotaryTable) -> tuple[Tensor, Tensor]:
        """Rotated queries of `x` and keys of `memory`, each (B, heads, N, D) float32."""
        return rotary.rotate(self._by_head(self.projq(x))), rotary.rotate(self._by_head(self.projk(memory)))

    def forward(
        self, x: Tensor, memory: Tensor, rotary: RotaryTable, mask: CrossMask | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update of `x` (B, N, C), and the mean logit of each key (B, N, heads), which masking does not touch."""
        q, k = self.queries_and_keys(x, memory, rotary)
        v = self._by_head(self.projv(memory))
        return self.proj(attend_masked(q, k, v, mask)), mean_key_logits(q, k)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, C) -> (B, heads, N, D)


class Mlp(nn.Module):
    def __init__(self, width: int, ratio: float):
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        x = x + self.attn(self.norm1(x), rotary)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = SelfAttention(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.norm3 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, mlp_ratio)
        self.norm_y = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(
        self, x: Tensor, memory: Tensor, rotary: RotaryTable, mask: CrossMask | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) after the block, and the cross-attention's mean key logits (B, N, heads)."""
        x = x + self.attn(self.norm1(x), rotary)
        update, key_logits = self.cross_attn(self.norm2(x), self.norm_y(memory), rotary, mask)
        x = x + update
        return x + self.mlp(self.norm3(x)), key_logits
