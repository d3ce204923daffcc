"""What a dense flow says about a static world, given how the camera moved; everything in standard deviations.

Inverse depth and distance from the epipolar line of every flow vector in closed form, the static world that explains
the flow best, and how far a measured depth is from what the static world may have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from easi3r_ros.core.two_view.flow import Flow
from easi3r_ros.core.two_view.refine import Camera, Motion, robust_scale, robust_scale_2d

QUANTILE_STEP = 2  # every n-th node: enough for quantiles
TAILS = (0.1, 0.9)  # quantiles of inverse depth; movers that take more of the image than the tails pass unnoticed
FARTHER, NEARER = 0.5, 2.5  # the static world may go on beyond these quantiles by these factors
UPPER = 0.75  # quantile, where what reaches the border of the image is excused
SURELY_NEAR = 3.0  # standard deviations
REACH, HOLD = 2, 6  # nodes: a region is held by so many of its nodes within so many of the border
SAMPLE = (slice(1, None, 3), slice(1, None, 3))  # nodes that statistics are taken from


@dataclass(frozen=True)
class Triangulation:
    """Any shape (...); inverse depths are in units of 1 / |t|."""

    inverse_depth: np.ndarray  # negative: the match is impossible for a static point in front of the camera
    information: np.ndarray  # 1 / variance of it
    parallax: np.ndarray  # pixels per unit of inverse depth
    epipolar: np.ndarray  # distance from the epipolar line in standard deviations, signed


def triangulate(
    source: np.ndarray, target: np.ndarray, information: np.ndarray, R: np.ndarray, t: np.ndarray, camera: Camera
) -> Triangulation:
    """The likeliest point of each ray of a, given where it was seen in b with a known covariance.

    source, target: (2, ...) pixels in a and in b. information: (3, ...) xx, xy, yy, 1 / pixels^2, of the target.
    A point at inverse depth r on the ray x is seen in b along R x + r t; cross-multiplied with the target (u, v) this
    is linear in r: r (T_xy - uv T_z) = uv A_z - A_xy with A = K R K^-1 x, T = K t.
    """
    K = camera.matrix()
    infinite = (K @ R @ np.linalg.inv(K)).astype(source.dtype)
    shift = (K @ t).astype(source.dtype)
    (u, v), (xx, xy, yy) = source, information
    A = [row[0] * u + row[1] * v + row[2] for row in infinite]
    gx, gy = shift[0] - target[0] * shift[2], shift[1] - target[1] * shift[2]
    hx, hy = target[0] * A[2] - A[0], target[1] * A[2] - A[1]
    ix, iy = xx * gx + xy * gy, xy * gx + yy * gy
    squared = gx * ix + gy * iy
    inverse_depth = (hx * ix + hy * iy) / np.maximum(squared, 1e-12)
    z = np.maximum(A[2] + inverse_depth * shift[2], 1e-3)  # depth in b over depth in a: turns the algebra into pixels
    determinant = np.maximum(xx * yy - xy * xy, 0)
    epipolar = (gx * hy - gy * hx) * np.sqrt(determinant / np.maximum(squared, 1e-12)) / z
    return Triangulation(inverse_depth, squared / z**2, np.sqrt(gx * gx + gy * gy) / z, epipolar)


def plausible_range(
    inverse_depth: np.ndarray, weight: np.ndarray, tails: tuple[float, float] = TAILS
) -> tuple[float, float]:
    """Inverse depths between which the static world lies, from the better known half of it."""
    values, weight = (
        inverse_depth[::QUANTILE_STEP, ::QUANTILE_STEP].ravel(),
        weight[::QUANTILE_STEP, ::QUANTILE_STEP].ravel(),
    )
    known = weight > 0
    if not known.any():
        return -np.inf, np.inf
    low, high = np.quantile(values[weight >= np.median(weight[known])], tails)
    return max(FARTHER * low, 0.0), max(NEARER * high, 0.0)  # nothing is behind infinity


def depth_violation(inverse_depth: np.ndarray, information: np.ndarray, low: float, high: float) -> np.ndarray:
    """(g, k) how far inverse depths are outside of [low, high], in standard deviations."""
    outside = np.maximum(np.maximum(np.float32(low) - inverse_depth, inverse_depth - np.float32(high)), 0)
    return outside * np.sqrt(information)


def implausible_depth(fit: RigidFit, weight: np.ndarray) -> np.ndarray:
    """(g, k) as `depth_violation` of the static world, but what is too near may be if it reaches the image's border.

    weight: (g, k) how much each node tells of the static world.
    """
    low, high = plausible_range(fit.inverse_depth, weight, (TAILS[0], UPPER))
    violation = depth_violation(fit.inverse_depth, fit.information, low, high)
    near = (fit.inverse_depth > high) & (violation > SURELY_NEAR)
    return np.where(near & ~floating(near), 0, violation) if near.any() else violation


def floating(near: np.ndarray) -> np.ndarray:
    """(g, k) bool, which nodes are in regions that `near` (g, k) makes and that end within the image.

    What stands that near reaches up from the border of the image, or from ground as near as itself, which does.
    """
    labels, _ = ndimage.label(near)  # not OpenCV's, which in 4.5.5 dies of four neighbours
    edges = [labels[:REACH].ravel(), labels[-REACH:].ravel(), labels[:, :REACH].ravel(), labels[:, -REACH:].ravel()]
    held = np.bincount(np.concatenate(edges), minlength=labels.max() + 1) >= HOLD
    held[0] = True
    return ~held[labels]


@dataclass(frozen=True)
class RigidFit:
    """The static world that explains a flow best, per node. Inverse depths in units of 1 / |t|."""

    inverse_depth: np.ndarray  # (g, k) float32; negative: impossible for a static point in front of the camera
    information: np.ndarray  # (g, k) float32, 1 / variance of it, error of the pose included
    epipolar: np.ndarray  # (g, k) float32, distance from the epipolar line: no depth explains it


def fit_rigid(flow: Flow, motion: Motion, moving: np.ndarray | None) -> RigidFit:
    """motion: with a translation. moving: (g, k) bool, nodes that must not influence what static ones are held to."""
    found = triangulate(flow.nodes, flow.target, flow.information, motion.R, motion.t, motion.camera)
    scale = np.float32(robust_scale(static_sample(found.epipolar, moving)))
    return RigidFit(found.inverse_depth, _with_pose_error(found, scale, motion), found.epipolar / scale)


def off_homography(flow: Flow, motion: Motion, moving: np.ndarray | None) -> np.ndarray:
    """(g, k) distance of the flow from what a camera that only turns sees. moving: as `fit_rigid`."""
    u, v = flow.nodes
    x, y, z = (row[0] * u + row[1] * v + row[2] for row in motion.homography.astype(np.float32))
    dx, dy = flow.target[0] - x / z, flow.target[1] - y / z
    xx, xy, yy = flow.information
    distance = np.sqrt(np.maximum(xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy, 0))
    return distance / np.float32(robust_scale_2d(static_sample(distance, moving)))


def static_sample(values: np.ndarray, moving: np.ndarray | None) -> np.ndarray:
    """(N,) some of the values (g, k), without those that are known to move unless that is all."""
    sample = values[SAMPLE].ravel()
    static = sample if moving is None else sample[~moving[SAMPLE].ravel()]
    return static if static.size else sample


def _with_pose_error(found: Triangulation, scale: float, motion: Motion) -> np.ndarray:
    """(g, k) 1 / variance of inverse depths that are also wrong by the parallax that a wrong rotation feigns."""
    feigned = np.float32(motion.turn_error * motion.camera.focal.mean())  # pixels
    flow = found.information / scale**2
    return flow / (1 + flow * (feigned / found.parallax) ** 2)
