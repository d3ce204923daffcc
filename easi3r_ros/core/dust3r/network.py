"""The DUSt3R-architecture network (METHOD 2): layers, heads, and the network of them.

Encode images, decode pairs, read pointmaps and attention statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easi3r_ros.core.dust3r import fused

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of the 2D rotary embedding of one token grid, in the precision that queries and keys have."""

    cos: Tensor  # (N, D), D: channels per head
    sin: Tensor  # (N, axis y | x, D / 4): each axis turns its two halves of D / 4 channels into each other

    def rotate(self, x: Tensor) -> Tensor:
        """Rotates queries or keys (B, heads, N, D)."""
        return fused.rotate(x, self.cos, self.sin)


def rotary_table(
    grid: tuple[int, int],
    head_dim: int,
    base: float,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> RotaryTable:
    """Table of a (rows, columns) grid: the first half of the channels turns with y, the second half with x."""
    rows, columns = grid
    per_axis = head_dim // 2
    exponents = torch.arange(0, per_axis, 2, device=device, dtype=torch.float32) / per_axis
    frequencies = base**-exponents  # (D / 4,)
    y = torch.arange(rows, device=device, dtype=torch.float32).repeat_interleave(columns)  # (N,)
    x = torch.arange(columns, device=device, dtype=torch.float32).repeat(rows)  # (N,)
    angle_y, angle_x = torch.outer(y, frequencies), torch.outer(x, frequencies)  # (N, D / 4)
    angles = torch.cat((angle_y, angle_y, angle_x, angle_x), dim=-1)  # (N, D)
    return RotaryTable(angles.cos().to(dtype), torch.stack((angle_y, angle_x), dim=1).sin().to(dtype))


@lru_cache(maxsize=16)
def _kept_table(
    grid: tuple[int, int], head_dim: int, base: float, device: torch.device, dtype: torch.dtype
) -> RotaryTable:
    with torch.inference_mode(False):  # a table made in there could not be used where gradients are wanted
        return rotary_table(grid, head_dim, base, device, dtype)


@dataclass(frozen=True)
class CrossMask:
    """Which keys the static queries of tower 1 must not see (eq. 10). Its shapes do not depend on what moves."""

    dynamic_queries: Tensor  # (B, N) bool, tokens of the reference view a
    dynamic_keys: Tensor  # (B, N) bool, tokens of the source view b


def changed_by_mask(dynamic_a: Tensor, dynamic_b: Tensor) -> Tensor:
    """(B,) bool: the pairs that the second pass changes, with both a static query and a dynamic key (METHOD 5).

    Token masks (B, N) bool of the views a and b.
    """
    return (~dynamic_a).any(1) & dynamic_b.any(1)


def mean_key_logits(q: Tensor, k: Tensor) -> Tensor:
    """Mean over all queries of q.k / sqrt(D), one value per key: (B, heads, N, D) twice -> (B, N, heads) float32.

    The mean commutes with the product (eq. 4-5), so N x N logits are not needed.
    """
    mean_q = q.float().mean(dim=2) * q.shape[-1] ** -0.5  # (B, heads, D)
    return torch.einsum("bhd,bhnd->bnh", mean_q, k.float())


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v: (B, heads, N, D) three times -> (B, N, heads * D)."""
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: CrossMask | None) -> Tensor:
    """`attend`, where static queries get nothing from dynamic keys. Zeroed weights without renormalisation (eq. 10)
    are the same as zeroed values, so this costs a second `attend` and no N x N mask.
    """
    plain = attend(q, k, v)
    if mask is None:
        return plain
    static_only = attend(q, k, v.masked_fill(mask.dynamic_keys[:, None, :, None], 0))  # (B, N, heads * D)
    return torch.where(mask.dynamic_queries[..., None], plain, static_only)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        packed = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, D)
        qkv = packed.permute(2, 0, 3, 1, 4)  # (3, B, heads, N, D)
        q, k = rotary.rotate(qkv[:2])
        return self.proj(attend(q, k, qkv[2]))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def queries_and_keys(self, x: Tensor, memory: Tensor, rotary: RotaryTable) -> tuple[Tensor, Tensor]:
        """Rotated queries of `x` and keys of `memory`, each (B, heads, N, D)."""
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


RAW_CHANNELS = 4  # x, y, z, confidence
DPT_UPSAMPLING = 16  # pixels per token that the DPT head produces, whatever the patch size
DPT_LEVEL_WIDTHS = (96, 192, 384, 768)
DPT_WIDTH = 256


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, grid)  # (B, N, C) -> (B, C, gh, gw)


def pointmap(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Raw head output (B, 4, h, w) -> points (B, h, w, 3) in pair units and confidence (B, h, w) >= 1."""
    xyz, confidence = raw.permute(0, 2, 3, 1).split((3, 1), dim=-1)  # (B, h, w, 3), (B, h, w, 1)
    norm = xyz.norm(dim=-1, keepdim=True)
    direction = xyz / norm.clamp(min=1e-8)
    return direction * torch.expm1(norm), 1 + confidence.squeeze(-1).exp()


class LinearHead(nn.Module):
    """One linear layer per token; its outputs are the pixels of the patch."""

    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(width, RAW_CHANNELS * patch_size**2)

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """The last of `levels` (B, N, C) -> (B, 4, h, w)."""
        return F.pixel_shuffle(as_map(self.proj(levels[-1]), grid), self.patch_size)


class DptHead(nn.Module):
    """Holds the DPT decoder under the name that checkpoints give it."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.dpt = Dpt(widths)

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Four token lists (B, N, C_i), shallow to deep -> (B, 4, 16 gh, 16 gw)."""
        return self.dpt([as_map(tokens, grid) for tokens in levels])


class Dpt(nn.Module):
    """Dense prediction transformer head: four maps, brought to four scales, fused from coarse to fine."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.scratch = Scratch()
        self.head = nn.Sequential(
            nn.Conv2d(DPT_WIDTH, DPT_WIDTH // 2, 3, padding=1),
            Doubling(),
            nn.Conv2d(DPT_WIDTH // 2, DPT_WIDTH // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(DPT_WIDTH // 2, RAW_CHANNELS, 1),
        )
        w0, w1, w2, w3 = DPT_LEVEL_WIDTHS
        self.act_postprocess = nn.ModuleList(
            (
                nn.Sequential(nn.Conv2d(widths[0], w0, 1), nn.ConvTranspose2d(w0, w0, 4, stride=4)),
                nn.Sequential(nn.Conv2d(widths[1], w1, 1), nn.ConvTranspose2d(w1, w1, 2, stride=2)),
                nn.Sequential(nn.Conv2d(widths[2], w2, 1)),
                nn.Sequential(nn.Conv2d(widths[3], w3, 1), nn.Conv2d(w3, w3, 3, stride=2, padding=1)),
            )
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scaled = [resample(level) for resample, level in zip(self.act_postprocess, maps, strict=True)]
        return self.head(self.scratch(scaled))


class Scratch(nn.Module):
    """The fusion part of the DPT head ("trained from scratch", hence the checkpoints' name)."""

    def __init__(self) -> None:
        super().__init__()
        for level, width in enumerate(DPT_LEVEL_WIDTHS, start=1):
            setattr(self, f"layer{level}_rn", nn.Conv2d(width, DPT_WIDTH, 3, padding=1, bias=False))
        # Checkpoints carry these four a second time under this name; the same modules give both names.
        self.layer_rn = nn.ModuleList((self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn))
        self.refinenet1 = Fusion()
        self.refinenet2 = Fusion()
        self.refinenet3 = Fusion()
        self.refinenet4 = Fusion()

    def forward(self, scaled: Sequence[Tensor]) -> Tensor:
        maps = [project(level) for project, level in zip(self.layer_rn, scaled, strict=True)]
        path = self.refinenet4(maps[3], None)
        path = path[..., : maps[2].shape[-2], : maps[2].shape[-1]]  # odd token counts: ceil(n / 2) * 2 > n
        path = self.refinenet3(path, maps[2])
        path = self.refinenet2(path, maps[1])
        return self.refinenet1(path, maps[0])


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return fused.double(x)


class Fusion(nn.Module):
    """Adds a finer map to the coarse path and doubles the size."""

    def __init__(self) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(DPT_WIDTH, DPT_WIDTH, 1)
        self.resConfUnit1 = ResidualConv()  # the coarsest level has no skip and leaves this one unused
        self.resConfUnit2 = ResidualConv()

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        # Published: interpolate, then out_conv. A 1x1 convolution commutes with it, and before it costs a quarter.
        x = self.out_conv(self.resConfUnit2(x))
        return fused.double(x)


class ResidualConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(DPT_WIDTH, DPT_WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(DPT_WIDTH, DPT_WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


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

    def cast(self, dtype: torch.dtype, heads: torch.dtype = torch.float32) -> Dust3rNetwork:
        """Encoder and decoder in `dtype`, the heads in `heads`, which as published is float32 (METHOD 2)."""
        for name, module in self.named_children():
            module.to(heads if "head" in name else dtype)
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) in [-1, 1], sides multiples of the patch -> tokens after the last norm (B, N, C)."""
        patches = self.patch_embed(images.to(self.patch_embed.proj.weight.dtype))  # (B, C, gh, gw)
        x = patches.flatten(2).transpose(1, 2)  # (B, N, C)
        rotary, _ = self.rotary_tables(patches.shape[-2:], x)
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
        mask = None if masks is None else CrossMask(*masks)
        _, rotary = self.rotary_tables(grid, tokens_a)
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

    def pointmaps(
        self, decoded: DecodedPairs, at_once: int = 1, regress: Callable[..., tuple[Tensor, ...]] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points of a and of b (B, h, w, 3), both in camera a, and their confidences (B, h, w); float32.

        at_once: pairs whose maps are computed together. A DPT head's activations are two orders of magnitude larger
        than a pair's tokens: one by one they stay in a CPU's cache, together they fill a GPU.
        regress: does what `regress` does, in another way.
        """
        regress = regress or self.regress
        names = self.config.head_layers
        levels = [*(decoded.tokens_a[layer] for layer in names), *(decoded.tokens_b[layer] for layer in names)]
        if len(levels[0]) <= at_once or self.config.head == "linear":
            return regress(decoded.grid, *levels)
        parts = zip(*(level.split(at_once) for level in levels), strict=True)
        maps = zip(*(regress(decoded.grid, *part) for part in parts), strict=True)
        return tuple(torch.cat(map_) for map_ in maps)

    def regress(self, grid: tuple[int, int], *levels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `pointmaps`, all at once. levels: what the heads read of a, shallow to deep, then of b, (B, N, C) each."""
        half = len(levels) // 2
        (points_a, conf_a), (points_b, conf_b) = (
            pointmap(head([level.to(next(head.parameters()).dtype) for level in own], grid).float())
            for head, own in ((self.downstream_head1, levels[:half]), (self.downstream_head2, levels[half:]))
        )
        return points_a, points_b, conf_a, conf_b

    def rotary_tables(self, grid: tuple[int, int], like: Tensor) -> tuple[RotaryTable, RotaryTable]:
        """Of the encoder and of the decoder, in the precision and on the device of the tokens `like`."""
        c = self.config
        widths = c.encoder_width // c.encoder_heads, c.decoder_width // c.decoder_heads
        return tuple(_kept_table(tuple(grid), width, c.rope_base, like.device, like.dtype) for width in widths)


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
