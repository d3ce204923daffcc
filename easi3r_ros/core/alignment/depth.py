"""Depth of a new frame: pairs brought to the world's scale, earlier depth carried along, all fused by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment.anchor import Anchor, information, sampling
from easi3r_ros.core.geometry import project, weighted_median
from easi3r_ros.core.types import PairGeometry

CARRY_DECAY = 0.97  # carried confidence fades, so that new measurements win over old mistakes
MAX_CONFIDENCE = 50.0  # beyond it a pixel would never be corrected again
AGREEMENT = 0.15  # relative depth difference up to which two estimates are taken for the same surface


@dataclass(frozen=True)
class DepthView:
    """What one pair says about the new frame's depth."""

    estimates: list[tuple[torch.Tensor, torch.Tensor]]  # (h, w) depth in world units, (h, w) confidence
    carried: torch.Tensor | None = None  # (h, w) the estimate that comes from the anchor's own depth
    residual: float | None = None  # relative; None: the pair knows no depth


@dataclass(frozen=True)
class NewFrame:
    """The frame whose depth is wanted."""

    index: int
    cam_from_world: torch.Tensor  # (4, 4) float64
    static: torch.Tensor  # (h, w) float32 weight, 1 where static
    min_confidence: float  # below it a measurement does not contradict carried depth


def depth_of_frame(
    new: NewFrame, pairs: Sequence[tuple[PairGeometry, Anchor]]
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(h, w) depth and confidence of a frame, and how well its pairs agree with the world (relative).

    pairs: both orders, each with the anchor that it has besides the new frame; at least one.
    """
    views = [(from_new if pair.a == new.index else from_anchor)(new, pair, anchor) for pair, anchor in pairs]
    depths, confidences = zip(*(estimate for view in views for estimate in view.estimates), strict=True)
    depth, confidence = fuse(torch.stack(depths), torch.stack(confidences))
    depth = hold_scale(depth, [view.carried for view in views if view.carried is not None])
    residuals = [view.residual for view in views if view.residual is not None]
    residual = sum(residuals) / len(residuals) if residuals else 0.0
    return depth, confidence.clamp(max=MAX_CONFIDENCE), residual


def from_new(new: NewFrame, pair: PairGeometry, anchor: Anchor) -> DepthView:
    """Depth from a pair (new, anchor): its own view a, scaled so that view b has the anchor's depth."""
    step = sampling(new.static.shape)
    expected = depth_after(new.cam_from_world @ anchor.world_from_cam.to(new.cam_from_world), anchor.points[step])
    measured = pair.points_b[..., 2][step]
    weight = (information(anchor.frame.confidence) * information(pair.conf_b) * anchor.static)[step]
    try:
        scale = pair_scale(expected, measured, weight)
    except ValueError:
        return DepthView([])  # no parallax: this pair knows no depth
    residual = relative_residual(scale * measured, expected, weight)
    return DepthView([(scale * pair.points_a[..., 2], pair.conf_a)], residual=residual)


def from_anchor(new: NewFrame, pair: PairGeometry, anchor: Anchor) -> DepthView:
    """Depth from a pair (anchor, new): its view b, and the anchor's own depth carried to where b's pixels were."""
    frame, step = anchor.frame, sampling(new.static.shape)
    new_from_anchor = new.cam_from_world @ anchor.world_from_cam.to(new.cam_from_world)
    in_new = depth_after(new_from_anchor, anchor.points)
    fading = 1.0 + CARRY_DECAY * (frame.confidence - 1.0)
    valid = torch.isfinite(in_new) & (anchor.static > 0.5)
    carried, carried_confidence = carry(in_new, fading, valid, pair.points_b, torch.from_numpy(frame.K))
    carried = torch.where(new.static > 0.5, carried, torch.full_like(carried, torch.nan))
    weight = (information(frame.confidence) * information(pair.conf_a) * anchor.static)[step]
    expected, seen = frame.depth[step], pair.points_a[..., 2][step]
    try:
        scale = pair_scale(expected, seen, weight)
    except ValueError:
        return DepthView([(carried, carried_confidence)], carried)  # no parallax: only the carried depth remains
    measured = depth_after(new_from_anchor, scale * pair.points_b)
    hidden = occluded(carried, measured, pair.conf_b, new.min_confidence)
    carried = torch.where(hidden, torch.full_like(carried, torch.nan), carried)
    residual = relative_residual(scale * seen, expected, weight)
    return DepthView([(measured, pair.conf_b), (carried, carried_confidence)], carried, residual)


def depth_after(other_from_cam: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """z of (..., 3) points after a rigid transform."""
    row = other_from_cam[2].to(points)
    return points @ row[:3] + row[3]


def hold_scale(depth: torch.Tensor, carried: list[torch.Tensor]) -> torch.Tensor:
    """`depth` with its median ratio to the anchors' own depth made one.

    Pairs have no scale of their own, and averaging noisy depth is biased by a fraction of a percent: without this the
    world would shrink frame by frame.
    """
    step = sampling(depth.shape)
    ratio = torch.cat([(old / depth)[step].flatten() for old in carried]) if carried else depth.new_empty(0)
    ratio = ratio[torch.isfinite(ratio)]
    return depth * ratio.median() if ratio.numel() else depth


def relative_residual(estimate: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor) -> float:
    """Median relative difference of depth, over what has weight."""
    good = (weight > 0) & torch.isfinite(reference) & (reference > 0)
    return float(((estimate - reference).abs() / reference)[good].median()) if bool(good.any()) else 0.0


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
