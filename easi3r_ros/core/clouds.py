"""Static and dynamic points of a frame, and the depth of what moves.

Two views of a mover do not triangulate: its own motion looks like parallax. But people, animals and vehicles stand on
something, and the depth of that is known right below them.
"""

from __future__ import annotations

import cv2
import numpy as np

from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import FrameResult, PointCloud

SMALLEST = 2e-3  # share of the image: a fragment of a mask does not stand on anything
FOOT = 0.12  # share of a mover's height that counts as its lowest part
FEWEST_COLUMNS = 3
GAP = 2  # pixels between a mover's outline and the ground that is looked at: outlines are not exact


def standing_depth(
    depth: np.ndarray, confidence: np.ndarray, mask: np.ndarray, min_confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and confidence in which every mover that stands on known ground has the depth of that ground.

    depth, confidence: (h, w); mask: (h, w) bool, True on movers, image upright. Pixels that are known to
    `min_confidence` are kept; a mover whose feet are out of sight, or on unknown ground, stays as it is. What is filled
    in gets `min_confidence`: usable, and never more than a measurement.
    """
    depth, confidence = depth.copy(), confidence.copy()
    ground = np.where((confidence >= min_confidence) & ~mask, depth, np.nan)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        if stats[label, cv2.CC_STAT_AREA] < SMALLEST * mask.size:
            continue
        found = ground_below(labels == label, ground)
        if found is not None:
            unknown = (labels == label) & ~(confidence >= min_confidence)
            depth[unknown], confidence[unknown] = found, min_confidence
    return depth, confidence


def ground_below(mover: np.ndarray, ground: np.ndarray) -> float | None:
    """Median depth of the known ground right under the lowest part of a mover; None if there is none."""
    height = mover.shape[0]
    rows = np.flatnonzero(mover.any(axis=1))
    columns = np.flatnonzero(mover.any(axis=0))
    lowest = height - 1 - mover[::-1, columns].argmax(axis=0)  # per column of the mover
    feet = lowest >= rows[-1] - FOOT * (rows[-1] - rows[0])
    below = lowest[feet] + 1 + GAP
    if below.size < FEWEST_COLUMNS or below.max() >= height:
        return None
    values = ground[below, columns[feet]]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size >= FEWEST_COLUMNS else None


def split_cloud(result: FrameResult, config: CloudConfig) -> tuple[PointCloud, PointCloud]:
    """(static, dynamic) points of a frame, in the camera's optical frame, world units. Only finite points."""
    step = slice(config.stride // 2, None, config.stride)
    depth, confidence = result.depth[step, step], result.confidence[step, step]
    mask, rgb = result.mask[step, step], result.frame.image[step, step]
    height, width = result.depth.shape
    v, u = np.meshgrid(np.arange(height)[step], np.arange(width)[step], indexing="ij")
    good = np.isfinite(depth) & (depth > 0) & (confidence >= config.min_confidence)
    if config.max_depth > 0:
        good &= depth <= config.max_depth
    (fx, _, cx), (_, fy, cy), _ = result.K
    xyz = np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], -1).astype(np.float32)
    static, dynamic = good & ~mask, good & mask
    return tuple(PointCloud(xyz[sel], rgb[sel], confidence[sel]) for sel in (static, dynamic))
