"""Depth of a new frame: pairs brought to the world's scale, earlier depth carried along, all fused by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment.placement import Anchor, information, sampling
from easi3r_ros.core.geometry import project, weighted_median
from easi3r_ros.core.types import PairGeometry

CARRY_DECAY = 0.97  # carried confidence fades, so that new measurements win over old mistakes
MAX_INFORMATION = 4.0  # beyond it a pixel would never be corrected again
FLOOR = 1e-4  # information of a pixel about which every estimate is unsure: it still gets a value
AGREEMENT = 0.15  # relative depth difference up to which two estimates are taken for the same surface


@dataclass(frozen=True)
class DepthView:
    """What one pair says about the new frame's depth."""

    estimates: list[tuple[torch.Tensor, torch.Tensor]]  # (h, w) depth in world units, (h, w) its information
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
    """(h, w) depth and confidence of a frame, and how far its pairs are from the world (relative; NaN: not known).

    pairs: both orders, each with the anchor that it has besides the new frame; at least one.
    """
    views = [(from_new if pair.a == new.index else from_anchor)(new, pair, anchor) for pair, anchor in pairs]
    depth, confidence = fuse([estimate for view in views for estimate in view.estimates])
    depth = hold_scale(depth, [view.carried for view in views if view.carried is not None])
    residuals = [view.residual for view in views if view.residual is not None]
    residual = sum(residuals) / len(residuals) if residuals else float("nan")
    return depth, confidence, residual


def from_new(new: NewFrame, pair: PairGeometry, anchor: Anchor) -> DepthView:
    """Depth from a pair (new, anchor): its own view a, scaled so that view b has the anchor's depth."""
    step = sampling(new.static.shape)
    expected = depth_after(new.cam_from_world @ anchor.world_from_cam.to(new.cam_from_world), anchor.points[step])
    measured = pair.points_b[..., 2][step]
    weight = anchor.information[step] * information(pair.conf_b[step]) * anchor.static[step]
    try:
        scale = pair_scale(expected, measured, weight)
    except ValueError:
        return DepthView([])  # no parallax: this pair knows no depth
    residual = relative_residual(scale * measured, expected, weight)
    return DepthView([(scale * pair.points_a[..., 2], information(pair.conf_a))], residual=residual)


def from_anchor(new: NewFrame, pair: PairGeometry, anchor: Anchor) -> DepthView:
    """Depth from a pair (anchor, new): its view b, and the anchor's own depth carried to where b's pixels were."""
    frame, step = anchor.frame, sampling(new.static.shape)
    new_from_anchor = new.cam_from_world @ anchor.world_from_cam.to(new.cam_from_world)
    in_new = depth_after(new_from_anchor, anchor.points)
    valid = torch.isfinite(in_new) & (anchor.static > 0.5)
    carried, faded = carry(in_new, CARRY_DECAY * anchor.information, valid, pair.points_b, torch.from_numpy(frame.K))
    carried = torch.where(new.static > 0.5, carried, torch.nan)
    weight = anchor.information[step] * information(pair.conf_a[step]) * anchor.static[step]
    expected, seen = frame.depth[step], pair.points_a[..., 2][step]
    try:
        scale = pair_scale(expected, seen, weight)
    except ValueError:
        return DepthView([(carried, faded)], carried)  # no parallax: only the carried depth remains
    measured = depth_after(new_from_anchor, scale * pair.points_b)
    hidden = occluded(carried, measured, pair.conf_b, new.min_confidence)
    carried = torch.where(hidden, torch.nan, carried)
    residual = relative_residual(scale * seen, expected, weight)
    return DepthView([(measured, information(pair.conf_b)), (carried, faded)], carried, residual)


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
    """Median relative difference of depth, over what has weight; NaN if nothing has."""
    good = (weight > 0) & torch.isfinite(reference) & (reference > 0)
    return float(((estimate - reference).abs() / reference)[good].median())  # of nothing: NaN


def pair_scale(world_depth: torch.Tensor, pair_depth: torch.Tensor, weights: torch.Tensor) -> float:
    """World units per pair unit: weighted median of the depth ratio, robust to movers and edges. All inputs (h, w).

    Raises ValueError if no pixel has weight and positive depth in both.
    """
    usable = (weights > 0) & torch.isfinite(world_depth) & (world_depth > 0) & (pair_depth > 0)
    ratio = torch.where(usable, world_depth / pair_depth.clamp(min=1e-12), torch.ones_like(pair_depth))
    return float(weighted_median(ratio[usable], weights[usable]))


def fuse(estimates: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(h, w) depths of the same view, each with its information, -> one (h, w) depth and confidence.

    Starts from the best known estimate per pixel and averages the logarithm of depth with those that agree with it:
    two surfaces at an edge are not mixed, and noise does not shrink the world frame by frame, as the mean of inverse
    depth would. NaN or non-positive depth counts as unknown; NaN where all are.
    """
    logarithms, weights = [], []
    best = most = None
    for depth, informed in estimates:  # a few maps: faster one by one than stacked
        known = depth > 0  # false for NaN
        logarithm = torch.where(known, depth, 1.0).log_()
        weight = (informed + FLOOR) * known
        better = None if most is None else weight > most
        best = logarithm if better is None else torch.where(better, logarithm, best)
        most = weight if better is None else torch.maximum(weight, most)
        logarithms.append(logarithm)
        weights.append(weight)
    total, sum_ = torch.zeros_like(best), torch.zeros_like(best)
    for logarithm, weight in zip(logarithms, weights, strict=True):
        weight = weight * ((logarithm - best).abs_() <= AGREEMENT)
        total += weight
        sum_ += weight * logarithm
    depth = torch.where(total > 0, (sum_ / total.clamp(min=1e-12)).exp_(), torch.nan)
    return depth, total.clamp_(max=MAX_INFORMATION).exp_()


def carry(
    z: torch.Tensor, informed: torch.Tensor, valid: torch.Tensor, lookup: torch.Tensor, K: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth known in an earlier frame, at the pixels of a new one.

    z: (h, w) depth of the earlier frame's points in the new camera; informed, valid: (h, w) information of the earlier
    frame and whether it may be used; lookup: (h, w, 3) where the new frame's pixels are, in the earlier camera (only
    their direction matters). Returns (h, w) depth (NaN where unknown) and information in the new frame.
    """
    height, width = z.shape
    u, v = project(lookup, K).unbind(-1)
    inside = (lookup[..., 2] > 0) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    grid = torch.stack([2 * u / (width - 1) - 1, 2 * v / (height - 1) - 1], -1)  # as grid_sample wants it: [-1, 1]
    known = valid & (z > 0)
    logarithm = torch.where(known, z, 1.0).log_()
    maps = torch.stack([logarithm, logarithm**2, known.to(z), informed])
    smooth, squared, whole, weight = _sample(maps, grid, "bilinear")
    nearest, exists = _sample(maps[[0, 2]], grid, "nearest")
    # Interpolated where the four neighbours are one surface, else the nearest: no points between two surfaces.
    one_surface = (whole > 0.999) & (squared - smooth**2 < (0.3 * AGREEMENT) ** 2)
    good = inside & (one_surface | (exists > 0.5))
    depth = torch.where(good, torch.where(one_surface, smooth, nearest).exp_(), torch.nan)
    return depth, weight * good


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
