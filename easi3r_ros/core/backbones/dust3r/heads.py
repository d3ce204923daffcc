"""Regression heads: token lists of one tower to raw (x, y, z, c) per pixel, and raw values to pointmaps (METHOD 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

    def __init__(self, width: int, patch_size: int, channels: int = RAW_CHANNELS):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(width, channels * patch_size**2)

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """The last of `levels` (B, N, C) -> (B, channels, h, w)."""
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
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
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
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class ResidualConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(DPT_WIDTH, DPT_WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(DPT_WIDTH, DPT_WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))
