"""The DUSt3R-architecture network (METHOD 2): encode images, decode pairs, read pointmaps and attention statistics."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from easi3r_ros.core.backbones.dust3r.heads import DPT_UPSAMPLING, DptHead, LinearHead, pointmap
from easi3r_ros.core.backbones.dust3r.layers import (
    LAYER_NORM_EPS,
    CrossMask,
    DecoderBlock,
    EncoderBlock,
    RotaryTable,
    rotary_table,
)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a network; the defaults are the published ViT-Large with DPT heads.

    Raises ValueError for sizes that do not fit together.
    """

    encoder_width: int = 1024
    encoder_depth: int = 24
    encoder_heads: int = 16
    decoder_width: int = 768
    decoder_depth: int = 12
    decoder_heads: int = 12
    head: str = "dpt"  # "dpt" or "linear"
    image_size: tuple[int, int] = (512, 512)  # (long side, ...) the network was trained for, pixels
    patch_size: int = 16
    mlp_ratio: float = 4.0
    rope_base: float = 100.0
    motion_head: bool = False  # linear heads that say which pixels move between the views; no published model has them

    def __post_init__(self) -> None:
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width <= 0 or heads <= 0 or width % (4 * heads):
                raise ValueError(f"{part} width {width} must be a positive multiple of 4 x {heads} heads (2D RoPE)")
        if self.encoder_depth < 1 or self.decoder_depth < 1 or self.patch_size < 1 or self.mlp_ratio <= 0:
            raise ValueError(f"depths, patch size and mlp ratio must be positive: {self}")
        if self.head not in ("dpt", "linear"):
            raise ValueError(f"head is '{self.head}', must be 'dpt' or 'linear'")
        if self.head == "dpt" and (self.patch_size != DPT_UPSAMPLING or self.decoder_depth < 4):
            raise ValueError(
                f"a DPT head needs patches of {DPT_UPSAMPLING} pixels and at least 4 decoder layers: {self}"
            )

    @property
    def head_layers(self) -> tuple[int, ...]:
        """Entries of the token list that a head reads: 0 is the encoder's output, l the output of decoder layer l."""
        depth = self.decoder_depth
        return (0, depth // 2, depth * 3 // 4, depth) if self.head == "dpt" else (depth,)

    @property
    def square(self) -> bool:
        """The 224 models were trained on square crops, the others on any shape (METHOD 1)."""
        return max(self.image_size) == 224


@dataclass(frozen=True)
class DecodedPairs:
    """What the two towers say about a batch of B ordered pairs (a, b)."""

    grid: tuple[int, int]  # (gh, gw)
    tokens_a: dict[int, Tensor]  # tower 1: entry of the token list -> (B, N, C)
    tokens_b: dict[int, Tensor]  # tower 2
    source: Tensor  # (B, gh, gw, layers * heads) float32: mean logits of tower 1's keys, on b's grid (eq. 5)
    reference: Tensor  # (B, gh, gw, layers * heads) float32: mean logits of tower 2's keys, on a's grid


class Dust3rNetwork(nn.Module):
    """Parameter names and shapes are those of the published checkpoints."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = c = config
        # A remnant of pre-training in every published checkpoint: carried so that loading stays strict, never read.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_width))
        self.patch_embed = PatchEmbedding(c.encoder_width, c.patch_size)
        encoder = (EncoderBlock(c.encoder_width, c.encoder_heads, c.mlp_ratio) for _ in range(c.encoder_depth))
        self.enc_blocks = nn.ModuleList(encoder)
        self.enc_norm = nn.LayerNorm(c.encoder_width, eps=LAYER_NORM_EPS)
        self.decoder_embed = nn.Linear(c.encoder_width, c.decoder_width)
        self.dec_blocks = _tower(c)
        self.dec_norm = nn.LayerNorm(c.decoder_width, eps=LAYER_NORM_EPS)
        self.dec_blocks2 = _tower(c)
        self.downstream_head1 = _head(c)
        self.downstream_head2 = _head(c)
        if c.motion_head:
            self.motion_head1 = LinearHead(c.decoder_width, c.patch_size, channels=1)
            self.motion_head2 = LinearHead(c.decoder_width, c.patch_size, channels=1)

    def cast(self, dtype: torch.dtype) -> Dust3rNetwork:
        """Encoder and decoder in `dtype`; the heads stay float32 (METHOD 2)."""
        for name, module in self.named_children():
            if "head" not in name:
                module.to(dtype)
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) in [-1, 1], sides multiples of the patch -> tokens after the last norm (B, N, C)."""
        patches = self.patch_embed(images.to(self.patch_embed.proj.weight.dtype))  # (B, C, gh, gw)
        x = patches.flatten(2).transpose(1, 2)  # (B, N, C)
        rotary = self._rotary(patches.shape[-2:], self.config.encoder_width // self.config.encoder_heads, x.device)
        for block in self.enc_blocks:
            x = block(x, rotary)
        return self.enc_norm(x)

    def decode(
        self,
        tokens_a: Tensor,
        tokens_b: Tensor,
        grid: tuple[int, int],
        masks: tuple[Tensor, Tensor] | None = None,
        layers: Collection[int] | None = None,
    ) -> DecodedPairs:
        """Both towers over encoder tokens (B, N, C) of the views a and b (eq. 3).

        masks: token masks (B, N) bool of a and b, True on moving content: the second pass (eq. 10).
        layers: entries of the token lists to keep; None: those that the heads read.
        """
        layers = self.config.head_layers if layers is None else layers
        mask = None if masks is None else CrossMask.of(*masks)
        rotary = self._rotary(grid, self.config.decoder_width // self.config.decoder_heads, tokens_a.device)
        a, b = self.decoder_embed(tokens_a), self.decoder_embed(tokens_b)
        lists_a, lists_b = {0: tokens_a}, {0: tokens_b}
        source, reference = [], []
        for layer, (tower_1, tower_2) in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True), start=1):
            (a, logits_of_b), (b, logits_of_a) = tower_1(a, b, rotary, mask), tower_2(b, a, rotary)
            source.append(logits_of_b)
            reference.append(logits_of_a)
            if layer in layers:
                lists_a[layer], lists_b[layer] = a, b
        if (last := self.config.decoder_depth) in layers:
            lists_a[last], lists_b[last] = self.dec_norm(a), self.dec_norm(b)
        return DecodedPairs(grid, lists_a, lists_b, _channels(source, grid), _channels(reference, grid))

    def pointmaps(self, decoded: DecodedPairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points of a and of b (B, h, w, 3), both in camera a, and their confidences (B, h, w); float32."""
        points_a, conf_a = self._regress(self.downstream_head1, decoded.tokens_a, decoded.grid)
        points_b, conf_b = self._regress(self.downstream_head2, decoded.tokens_b, decoded.grid)
        return points_a, points_b, conf_a, conf_b

    def motion(self, decoded: DecodedPairs) -> tuple[Tensor, Tensor]:
        """Logits (B, h, w) float32 that a pixel of a, and of b, moves in the world between the two views.

        Raises ValueError for a network without motion heads.
        """
        if not self.config.motion_head:
            raise ValueError("this network has no motion heads")
        last = self.config.decoder_depth
        logits_a = self.motion_head1([decoded.tokens_a[last].float()], decoded.grid)
        logits_b = self.motion_head2([decoded.tokens_b[last].float()], decoded.grid)
        return logits_a[:, 0], logits_b[:, 0]  # (B, 1, h, w) -> (B, h, w)

    def _regress(self, head: nn.Module, lists: dict[int, Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        levels = [lists[layer].float() for layer in self.config.head_layers]
        if self.config.head == "linear":
            return pointmap(head(levels, grid))
        # One image at a time: the DPT head's activations are two orders of magnitude larger than a pair's tokens.
        answers = [pointmap(head([level[i : i + 1] for level in levels], grid)) for i in range(len(levels[0]))]
        points, confidences = zip(*answers, strict=True)
        return torch.cat(points), torch.cat(confidences)

    def _rotary(self, grid: tuple[int, int], head_dim: int, device: torch.device) -> RotaryTable:
        return rotary_table(grid, head_dim, self.config.rope_base, device)


class PatchEmbedding(nn.Module):
    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)  # (B, 3, h, w) -> (B, C, gh, gw)


def _tower(c: NetworkConfig) -> nn.ModuleList:
    return nn.ModuleList(DecoderBlock(c.decoder_width, c.decoder_heads, c.mlp_ratio) for _ in range(c.decoder_depth))


def _head(c: NetworkConfig) -> nn.Module:
    if c.head == "dpt":
        return DptHead((c.encoder_width, c.decoder_width, c.decoder_width, c.decoder_width))
    return LinearHead(c.decoder_width, c.patch_size)


def _channels(logits: list[Tensor], grid: tuple[int, int]) -> Tensor:
    return torch.cat(logits, dim=-1).unflatten(1, grid)  # layers x (B, N, heads) -> (B, gh, gw, layers * heads)
