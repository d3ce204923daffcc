"""The moving pixels of one image, grouped into things: neighbours without a step in depth between them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from easi3r_ros.core.clouds import ground_below
from easi3r_ros.core.config import CloudConfig, ObjectConfig
from easi3r_ros.core.types import FrameResult

WIDTH = 320  # pixels at which groups are found; finer outlines than the mask has are of no use
MENDED = 0.006  # share of the width: fragments as near as this belong together, if depth does not say otherwise
FEWEST_KNOWN = 12  # pixels with a depth, below which a group has no place in space
# Errors of an object's position, relative to its distance. Along the ray: from the ground that it stands on, and from
# two views, which take its own motion for parallax. Across it: as good as outlines are.
STANDING, MEASURED, ACROSS = 0.08, 0.25, 0.015
EXTENT = (3.0, 97.0)  # percentiles of the points between which the box lies


@dataclass(frozen=True)
class Segment:
    """One group. Camera frame, world units."""

    box: np.ndarray  # (4,) float64 x0, y0, x1, y1 in pixels of the camera image, x1 and y1 outside
    area: int  # pixels of the camera image, about
    centroid: np.ndarray | None  # (3,) float64; None: depth is not known
    points: np.ndarray  # (N, 3) float64 a sample of what is seen of it; empty without depth
    error: float = MEASURED  # of the distance, relative to it

    def covariance(self) -> np.ndarray:
        """(3, 3) of the centroid."""
        distance = float(np.linalg.norm(self.centroid))
        ray = self.centroid / distance
        along = np.outer(ray, ray)
        return (self.error * distance) ** 2 * along + (ACROSS * distance) ** 2 * (np.eye(3) - along)


def find_segments(
    result: FrameResult, config: ObjectConfig, clouds: CloudConfig, ignored: np.ndarray | None = None
) -> tuple[list[Segment], np.ndarray]:
    """The groups, largest first, and (H, W) int32 with their number from 1 on; 0 where nothing moves.

    clouds: which depth counts, and whether movers stand on the ground. ignored: (H, W) bool, the robot's own body.
    Moving pixels of groups that are too small have no number.
    """
    mask = result.mask if ignored is None else result.mask & ~ignored
    height, width = mask.shape
    if not mask.any():
        return [], np.zeros(mask.shape, np.int32)
    step = max(1, round(width / WIDTH))
    coarse = (slice(step // 2, None, step),) * 2
    depth = np.where(result.confidence[coarse] >= clouds.min_confidence, result.depth[coarse], np.nan)
    ground = np.where(result.mask[coarse] | (clouds.movers != "standing"), np.nan, depth)
    labels = _groups(mask[coarse], depth, config.depth_gap)
    segments, numbers = [], np.zeros(labels.max() + 1, np.int32)
    areas = np.bincount(labels.ravel())
    for label in sorted(range(1, len(areas)), key=lambda label: -areas[label]):
        if areas[label] < max(config.min_area * labels.size, 1):
            break
        segments.append(_segment(labels == label, depth, ground, result.K, step))
        numbers[label] = len(segments)
    # Outlines of the coarse groups, a pixel wider, so that the mask alone says where they end.
    wide = numbers[labels]
    grown = cv2.dilate(wide.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
    wide = np.where(wide > 0, wide, grown)
    fine = cv2.resize(wide, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return segments, np.where(mask, fine, 0).astype(np.int32)


def _groups(mask: np.ndarray, depth: np.ndarray, gap: float) -> np.ndarray:
    """(h, w) int32 numbers of the connected parts of a mask, cut where depth has a step; 0: not in the mask."""
    reach = max(1, round(MENDED * mask.shape[1]))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    known = np.isfinite(depth)
    kernel = np.ones((3, 3), np.uint8)
    far = cv2.dilate(np.where(known & mask, depth, 0).astype(np.float32), kernel)
    near = cv2.erode(np.where(known & mask, depth, np.inf).astype(np.float32), kernel)
    with np.errstate(over="ignore"):  # where nothing is known, near stays at its largest
        step = far > near * (1 + gap)
    core = (closed & ~step).astype(np.uint8)
    count, labels = cv2.connectedComponents(core, connectivity=8)
    if step.any():  # what was cut belongs to the part that is next to it
        _, nearest = cv2.distanceTransformWithLabels(1 - core, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        seeds = np.zeros(nearest.max() + 1, np.int32)
        seeds[nearest[core > 0]] = labels[core > 0]
        labels = seeds[nearest]
    return np.where(mask, labels, 0).astype(np.int32)


def _segment(pixels: np.ndarray, depth: np.ndarray, ground: np.ndarray, K: np.ndarray, step: int) -> Segment:
    v, u = np.nonzero(pixels)
    box = np.array([u.min(), v.min(), u.max() + 1, v.max() + 1], np.float64) * step
    area = int(len(u) * step * step)
    z, error = depth[v, u].astype(np.float64), MEASURED
    stands = ground_below(pixels, ground)
    if stands is not None:
        z, error = np.full(len(u), stands), STANDING
    known = np.isfinite(z) & (z > 0)
    if known.sum() < FEWEST_KNOWN:
        return Segment(box, area, None, np.zeros((0, 3)))
    middle = np.median(z[known])
    known &= np.abs(z - middle) <= 0.5 * middle
    z = z[known]
    (fx, _, cx), (_, fy, cy), _ = K
    u, v = u[known] * step + step // 2, v[known] * step + step // 2
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)
    return Segment(box, area, points.mean(axis=0), points[:: max(1, len(points) // 500)], error)


def extent(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((3,) centre, (3,) size) of the box along the axes that holds nearly all of (N, 3) points."""
    low, high = np.percentile(points, EXTENT, axis=0)
    return (low + high) / 2, high - low
