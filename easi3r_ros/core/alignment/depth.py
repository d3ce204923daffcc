"""Depth of a new frame: pairs brought to the world's scale, earlier depth carried along, all fused by confidence."""

from __future__ import annotations

import torch

from easi3r_ros.core.geometry import project, weighted_median

AGREEMENT = 0.15  # relative depth difference up to which two estimates are taken for the same surface


def information(confidence: torch.Tensor) -> torch.Tensor:
    """Weight of a pointmap's pixel: log(conf), as in the alignment objective (METHOD 7); 0: nothing is known."""
    return confidence.clamp(min=1.0).log()


def pair_scale(world_depth: torch.Tensor, pair_depth: torch.Tensor, weights: torch.Tensor) -> float:
    """World units per pair unit: weighted median of the depth ratio, robust to movers and edges. All inputs (h, w).

    Raises ValueError if no pixel has weight and positive depth in both.
    """
    usable = (weights > 0) & torch.isfinite(world_depth) & (world_depth > 0) & (pair_depth > 0)
    ratio = torch.where(usable, world_depth / pair_depth.clamp(min=1e-12), torch.ones_like(pair_depth))
    return float(weighted_median(ratio[usable], weights[usable]))


def fuse(depths: torch.Tensor, confidences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, h, w) depth and confidence of the same view -> one (h, w) depth and confidence.

    Starts from the most confident estimate per pixel and averages the logarithm of depth with those that agree with it:
    two surfaces at an edge are not mixed, and noise does not shrink the world frame by frame, as the mean of inverse
    depth would. NaN or non-positive depth counts as unknown; NaN where all are.
    """
    known = torch.isfinite(depths) & (depths > 0)
    logarithm = torch.where(known, depths, torch.ones_like(depths)).log()
    # The floor keeps a value for pixels about which every estimate is unsure.
    weight = torch.where(known, information(confidences) + 1e-4, torch.zeros_like(depths))
    best, most = logarithm[0], weight[0]
    for candidate, strength in zip(logarithm[1:], weight[1:], strict=True):  # a few maps: faster than argmax over them
        best, most = torch.where(strength > most, candidate, best), torch.maximum(strength, most)
    weight = weight * ((logarithm - best).abs() <= AGREEMENT)
    total = weight.sum(0)
    fused = ((weight * logarithm).sum(0) / total.clamp(min=1e-12)).exp()
    depth = torch.where(total > 0, fused, torch.full_like(fused, torch.nan))
    return depth, torch.where(total > 0, total.exp(), torch.ones_like(total))


def carry(
    z: torch.Tensor, confidence: torch.Tensor, valid: torch.Tensor, lookup: torch.Tensor, K: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth known in an earlier frame, at the pixels of a new one.

    z: (h, w) depth of the earlier frame's points in the new camera; confidence, valid: (h, w) of the earlier frame;
    lookup: (h, w, 3) where the new frame's pixels are, in the earlier camera (only their direction matters).
    Returns (h, w) depth (NaN where unknown) and confidence in the new frame.
    """
    height, width = confidence.shape
    u, v = project(lookup, K).unbind(-1)
    inside = (lookup[..., 2] > 0) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    grid = torch.stack([2 * u / (width - 1) - 1, 2 * v / (height - 1) - 1], -1)  # as grid_sample wants it: [-1, 1]
    known = (valid & (z > 0)).to(z)
    logarithm = torch.where(known > 0, z, torch.ones_like(z)).log()
    samples = _sample(torch.stack([logarithm, logarithm**2, known, confidence]), grid, "bilinear")
    nearest = _sample(torch.stack([logarithm, known]), grid, "nearest")
    # Interpolated where the four neighbours are one surface, else the nearest: no points between two surfaces.
    spread = (samples[1] - samples[0] ** 2).clamp(min=0.0).sqrt()
    one_surface = (samples[2] > 0.999) & (spread < 0.3 * AGREEMENT)
    depth = torch.where(one_surface, samples[0], nearest[0]).exp()
    good = inside & (one_surface | (nearest[1] > 0.5))
    nothing = torch.full_like(depth, torch.nan)
    return torch.where(good, depth, nothing), torch.where(good, samples[3].clamp(min=1.0), torch.ones_like(confidence))


def occluded(
    carried: torch.Tensor, measured: torch.Tensor, confidence: torch.Tensor, min_confidence: float
) -> torch.Tensor:
    """(h, w) bool: the carried depth is another surface's, because the pair itself measured a different one here."""
    differs = (carried - measured).abs() > AGREEMENT * measured.abs()
    return (confidence >= min_confidence) & differs


def _sample(channels: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """(c, h, w) maps at (h', w', 2) normalised positions -> (c, h', w')."""
    return torch.nn.functional.grid_sample(
        channels[None], grid[None].to(channels), mode=mode, padding_mode="border", align_corners=True
    )[0]
