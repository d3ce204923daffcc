"""From radiance to the image of a cheap camera: blur, exposure, white balance, noise, gamma."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

GAMMA = 2.2


def exposed(colours: Tensor, gain: Tensor) -> Tensor:
    """(..., 3) display values 0..1 of linear colours; highlights roll off above 0.8. gain: broadcasts."""
    linear = colours * gain
    over = (linear - 0.8).clamp_min(0)
    return torch.where(linear > 0.8, 0.8 + 0.2 * over / (over + 0.2), linear.clamp_min(0)) ** (1 / GAMMA)


def automatic_gain(colours: Tensor, brightness: Tensor) -> Tensor:
    """(N,) factors that bring the mean of each picture to `brightness` (N,). colours: (N, H, W, 3) linear."""
    return brightness / colours.clamp(max=2.0).mean(dim=(1, 2, 3)).clamp_min(1e-3)


def lens_blur(colours: Tensor, deviation: Tensor) -> Tensor:
    """Gaussian blur over 3 x 3 pixels; it also softens the stairs that one ray per pixel leaves at edges.

    deviation: (N,) pixels.
    """
    side = torch.exp(-0.5 / deviation.clamp_min(0.05) ** 2)
    kernel = torch.stack([side, torch.ones_like(side), side], dim=-1)
    kernel = kernel / kernel.sum(dim=-1, keepdim=True)  # (N, 3)
    N, H, W, _ = colours.shape
    images = colours.permute(0, 3, 1, 2).reshape(1, 3 * N, H, W)
    kernels = kernel.repeat_interleave(3, dim=0)  # one for each channel of each picture
    images = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    images = functional.conv2d(images, kernels[:, None, None, :], groups=3 * N)
    images = functional.conv2d(images, kernels[:, None, :, None], groups=3 * N)
    return images.view(N, 3, H, W).permute(0, 2, 3, 1)


def motion_blur(colours: Tensor, flow: Tensor) -> Tensor:
    """Mean of five copies along the way that each pixel goes while the shutter is open.

    flow: (N, H, W, 2) that way, pixels.
    """
    N, H, W, _ = colours.shape
    images = colours.permute(0, 3, 1, 2)
    y, x = torch.meshgrid(torch.arange(H, device=flow.device), torch.arange(W, device=flow.device), indexing="ij")
    pixel = torch.stack([x, y], dim=-1).to(colours.dtype)
    size = torch.tensor([W - 1, H - 1], dtype=colours.dtype, device=flow.device)
    total = images.clone()
    for share in (-0.5, -0.25, 0.25, 0.5):
        place = 2 * (pixel + share * flow) / size - 1
        total += functional.grid_sample(images, place, padding_mode="border", align_corners=True)
    return (total / 5).permute(0, 2, 3, 1)


def noisy(values: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 pictures of display values 0..1 with sensor noise, more in the dark. deviation: (N,) grey levels of 255."""
    noise = torch.randn(values.shape, generator=generator, device=values.device)
    strength = deviation[:, None, None, None] * (1.3 - 0.6 * values)
    return (255 * values + strength * noise).round_().clamp_(0, 255).to(torch.uint8)
