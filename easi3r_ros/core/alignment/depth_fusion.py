"""Depth of a new frame: pairs brought to the world's scale, earlier depth carried along, all fused by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from easi3r_ros.core.alignment.placement import (
    Anchor,
    AnchorSample,
    PairSample,
    information,
    lower_median,
    sampling,
)
from easi3r_ros.core.geometry import depth_after, weighted_median
from easi3r_ros.core.types import PairGeometry

CARRY_DECAY = 0.97  # carried confidence fades, so that new measurements win over old mistakes
MAX_INFORMATION = 4.0  # beyond it a pixel would never be corrected again
FLOOR = 1e-4  # information of a pixel about which every estimate is unsure: it still gets a value
CARRIERS = 3  # anchors whose depth is carried: the nearest has all that came before it, the farthest holds the scale
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
    cam_from_world: torch.Tensor  # (4, 4) float64, on the host
    static: torch.Tensor  # (h, w) float32 weight, 1 where static
    min_confidence: float  # below it a measurement does not contradict carried depth


@dataclass(frozen=True)
class AnchoredPair:
    """A pair with the anchor that it has besides the new frame; the samples of both are on the host."""

    pair: PairGeometry
    anchor: Anchor
    sample: PairSample
    anchor_sample: AnchorSample


def depth_of_frame(new: NewFrame, pairs: Sequence[AnchoredPair]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(h, w) depth and confidence of a frame, how far its pairs are from the world (relative; NaN: not known).

    pairs: both orders; at least one. Scales come from the samples, so maps stay on their device.
    """
    carriers = _carriers([pair.pair.a for pair in pairs if pair.pair.a != new.index])
    views = [
        from_new(new, pair) if pair.pair.a == new.index else from_anchor(new, pair, pair.pair.a in carriers)
        for pair in pairs
    ]
    depth, confidence = fuse([estimate for view in views for estimate in view.estimates])
    depth = hold_scale(depth, [view.carried for view in views if view.carried is not None])
    residuals = [view.residual for view in views if view.residual is not None]
    residual = sum(residuals) / len(residuals) if residuals else float("nan")
    return depth, confidence, residual


def _carriers(anchors: Sequence[int]) -> set[int]:
    """CARRIERS of the anchors, by frame index: the nearest, the farthest, and evenly between them."""
    newest_first = sorted(anchors, reverse=True)
    if len(newest_first) <= CARRIERS:
        return set(newest_first)
    return {newest_first[i * (len(newest_first) - 1) // (CARRIERS - 1)] for i in range(CARRIERS)}


def from_new(new: NewFrame, anchored: AnchoredPair) -> DepthView:
    """Depth from a pair (new, anchor): its own view a, scaled so that view b has the anchor's depth."""
    pair, sample, anchor = anchored.pair, anchored.sample, anchored.anchor_sample
    expected = depth_after(new.cam_from_world @ anchor.world_from_cam, anchor.points)
    measured = sample.points_b[..., 2]
    weight = anchor.information * information(sample.conf_b) * anchor.static
    try:
        scale = pair_scale(expected, measured, weight)
    except ValueError:
        return DepthView([])  # no parallax: this pair knows no depth
    residual = relative_residual(scale * measured, expected, weight)
    return DepthView([(scale * pair.points_a[..., 2], information(pair.conf_a))], residual=residual)


def from_anchor(new: NewFrame, anchored: AnchoredPair, carries: bool = True) -> DepthView:
    """Depth from a pair (anchor, new): its view b, and the anchor's own depth carried to where b's pixels were.

    carries: whether the latter is wanted.
    """
    pair, sample = anchored.pair, anchored.anchor_sample
    new_from_anchor = new.cam_from_world @ anchored.anchor.world_from_cam
    carried, faded = _carried(new, anchored, new_from_anchor) if carries else (None, None)
    weight = sample.information * information(anchored.sample.conf_a) * sample.static
    expected, seen = sample.depth, anchored.sample.points_a[..., 2]
    try:
        scale = pair_scale(expected, seen, weight)
    except ValueError:  # no parallax: only the carried depth remains
        return DepthView([(carried, faded)] if carries else [], carried)
    measured = depth_after(new_from_anchor, pair.points_b, scale)
    residual = relative_residual(scale * seen, expected, weight)
    estimates = [(measured, information(pair.conf_b))]
    if carries:
        hidden = occluded(carried, measured, pair.conf_b, new.min_confidence)
        carried = carried.masked_fill_(hidden, torch.nan)
        estimates.append((carried, faded))
    return DepthView(estimates, carried, residual)


def _carried(new: NewFrame, anchored: AnchoredPair, new_from_anchor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The anchor's depth (h, w) and its information at the pixels of the new frame, where both are static."""
    anchor = anchored.anchor
    in_new = depth_after(new_from_anchor, anchor.points)
    valid = (anchor.static > 0.5).logical_and_(in_new < torch.inf)  # false for NaN
    K = torch.from_numpy(anchor.frame.K)
    carried, faded = carry(in_new, CARRY_DECAY * anchor.information, valid, anchored.pair.points_b, K)
    return carried.masked_fill_(new.static <= 0.5, torch.nan), faded


def hold_scale(depth: torch.Tensor, carried: list[torch.Tensor]) -> torch.Tensor:
    """`depth` with its median ratio to the anchors' own depth made one.

    Pairs have no scale of their own, and averaging noisy depth is biased by a fraction of a percent: without this the
    world would shrink frame by frame.
    """
    step = sampling(depth.shape)
    if not carried:
        return depth
    sample = depth[step]
    ratio = torch.cat([(old[step] / sample).flatten() for old in carried])
    median = torch.where(ratio.isfinite(), ratio, torch.nan).nanmedian()
    return depth * torch.nan_to_num(median, nan=1.0)  # nothing was carried


def relative_residual(estimate: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor) -> float:
    """Median relative difference of depth, over what has weight; NaN if nothing has. All (n, m), on the host."""
    estimate, reference, weight = (x.numpy() for x in (estimate, reference, weight))
    good = (weight > 0) & np.isfinite(reference) & (reference > 0)
    reference = reference[good]
    return lower_median(np.abs(estimate[good] - reference) / reference) if reference.size else float("nan")


def pair_scale(world_depth: torch.Tensor, pair_depth: torch.Tensor, weights: torch.Tensor) -> float:
    """World units per pair unit: weighted median of the depth ratio, robust to movers and edges.

    All inputs (n, m), on the host. Raises ValueError if no pixel has weight and positive depth in both.
    """
    world, pair, share = (x.numpy() for x in (world_depth, pair_depth, weights))
    usable = (share > 0) & np.isfinite(world) & (world > 0) & (pair > 0)
    ratio = world[usable] / np.maximum(pair[usable], np.asarray(1e-12, pair.dtype))
    return float(weighted_median(torch.from_numpy(ratio), torch.from_numpy(share[usable])))


def fuse(estimates: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(h, w) depths of the same view, each with its information, -> one (h, w) depth and confidence.

    Starts from the best known estimate per pixel and averages the logarithm of depth with those that agree with it:
    two surfaces at an edge are not mixed, and noise does not shrink the world frame by frame, as the mean of inverse
    depth would. NaN or non-positive depth counts as unknown; NaN where all are.
    """
    logarithms, weights, best, most = [], [], None, None
    for depth, informed in estimates:  # a few maps: faster one by one than stacked
        known = depth > 0  # false for NaN
        logarithm = torch.where(known, depth, 1.0).log_()
        weight = (informed + FLOOR).mul_(known)
        if best is None:
            best, most = logarithm.clone(), weight.clone()
        else:
            best = torch.where(weight > most, logarithm, best)
            torch.maximum(most, weight, out=most)
        logarithms.append(logarithm)
        weights.append(weight)
    total, sum_ = torch.zeros_like(best), torch.zeros_like(best)
    for logarithm, weight in zip(logarithms, weights, strict=True):
        weight.mul_((logarithm - best).abs_() <= AGREEMENT)
        total.add_(weight)
        sum_.addcmul_(weight, logarithm)
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
    grid, inside = _positions(lookup, K, (height, width))
    # NaN where it must not be used: it spreads to all that would be interpolated with it.
    maps = torch.empty(3, height, width, dtype=z.dtype, device=z.device)
    torch.log(z, out=maps[0]).masked_fill_(~valid, torch.nan)
    torch.mul(maps[0], maps[0], out=maps[1])
    maps[2].copy_(informed)
    smooth, squared, weight = _sample(maps, grid, "bilinear")
    nearest = _sample(maps[:1], grid, "nearest")[0]
    # Interpolated where the four neighbours are one surface, else the nearest: no points between two surfaces.
    one_surface = squared.sub_(smooth * smooth) < (0.3 * AGREEMENT) ** 2
    chosen = torch.where(one_surface, smooth, nearest)
    depth = torch.where(inside, chosen, torch.nan).exp_()
    return depth, weight.mul_(inside).mul_(depth > 0)


def _positions(lookup: torch.Tensor, K: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points (h, w, 3) are seen: (h, w, 2) from -1 to 1, as grid_sample wants it; (h, w) whether they are."""
    (fx, _, cx), (_, fy, cy), _ = K.tolist()
    z = lookup[..., 2]
    inverse = z.clamp(min=1e-9).reciprocal_()
    grid = torch.empty(*z.shape, 2, dtype=z.dtype, device=z.device)
    for axis, focal, centre, side in ((0, fx, cx, size[1]), (1, fy, cy, size[0])):
        unit = 2 / (side - 1)
        torch.mul(lookup[..., axis], inverse, out=grid[..., axis]).mul_(focal * unit).add_(centre * unit - 1)
    bounded = grid.abs() <= 1
    return grid, (z > 0).logical_and_(bounded[..., 0]).logical_and_(bounded[..., 1])


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
