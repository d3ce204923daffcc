"""Metres from the known height of a camera above flat ground: the ground is found in its depth."""

from __future__ import annotations

import math

import numpy as np

from easi3r_ros.core.types import FrameResult
from easi3r_ros.mapping.scale import LockRule, Measurement

# Shared: the ground nearby, which is all that is flat for sure, has the least texture and the least exact depth. On
# rendered clips the height comes out 4 to 8 % too large (easi3r-lab eval metres).
RULE = LockRule(fewest=15, shared=0.08, sigma=0.12)
SAMPLES = 1500  # points
FEWEST = 200
CONFIDENCE = 1.5
TRIES = 150
NEAR = 0.05  # of the depth: inliers of a plane
GROUND = 0.2  # share of the points that must lie on it
REFINEMENTS = 3
BELOW = 0.06  # share of the points that may lie below it
SIGMA = 0.02  # relative, of one measurement at best: bumps, and the vehicle's pitching


def ground_height(result: FrameResult, up: np.ndarray, tilt: float) -> float | None:
    """Height of the camera above the ground, in the alignment's units; None: no ground is seen.

    up: (3,) roughly upwards, optical axes. tilt: radians by which the ground's normal may differ from it.
    """
    points = _points(result)
    if len(points) < FEWEST:
        return None
    up = up / np.linalg.norm(up)
    lower = points[points @ up < 0]
    if len(lower) < FEWEST // 4:
        return None
    normals, heights = _candidates(lower, up, tilt)
    if not len(normals):
        return None
    off = 1 + points @ normals.T / heights  # (N, M) of the depth along the ray, positive above the plane
    on, below = (np.abs(off) < NEAR).mean(0), (off < -3 * NEAR).mean(0)
    on[below > BELOW] = 0.0
    best = int(on.argmax())
    if on[best] < GROUND:
        return None
    plane = normals[best] / heights[best]
    for _ in range(REFINEMENTS):
        plane = _refined(points[np.abs(1 + points @ plane) < NEAR])
        if plane is None:
            return None
    length = float(np.linalg.norm(plane))
    return 1 / length if plane @ up > math.cos(tilt) * length else None


def height_ratio(result: FrameResult, up: np.ndarray, tilt: float, metres: float) -> Measurement | None:
    """metres: height of the camera above the ground. None: no ground is seen."""
    height = ground_height(result, up, tilt)
    return None if height is None else Measurement(metres / height, SIGMA)


def _points(result: FrameResult) -> np.ndarray:
    """(N, 3) confident static points in optical axes, spread over the image."""
    height, width = result.mask.shape
    step = max(1, round(math.sqrt(height * width / SAMPLES)))
    v, u = (grid.ravel() for grid in np.mgrid[step // 2 : height : step, step // 2 : width : step])
    depth = result.depth[v, u].astype(float)
    good = np.isfinite(depth) & (depth > 0) & ~result.mask[v, u] & (result.confidence[v, u] >= CONFIDENCE)
    u, v, depth = u[good], v[good], depth[good]
    (fx, _, cx), (_, fy, cy), _ = result.K
    return np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], -1)


def _candidates(points: np.ndarray, up: np.ndarray, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """((M, 3) normals within `tilt` of up, (M,) heights > 0) of planes through three points each; x.n + height = 0."""
    chosen = np.random.default_rng(0).integers(0, len(points), (TRIES, 3))
    a, b, c = points[chosen].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    normals, a = normals[lengths > 1e-12], a[lengths > 1e-12]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals *= np.where(normals @ up < 0, -1.0, 1.0)[:, None]
    heights = -(normals * a).sum(1)
    fit = (normals @ up > math.cos(tilt)) & (heights > 0)
    return normals[fit], heights[fit]


def _refined(points: np.ndarray) -> np.ndarray | None:
    """(3,) normal / height of the least-squares plane, errors in inverse depth, as those of depth mostly are."""
    if len(points) < FEWEST // 4:
        return None
    distance = np.linalg.norm(points, axis=1)
    plane, *_ = np.linalg.lstsq(points / distance[:, None], -1 / distance, rcond=None)
    return plane
