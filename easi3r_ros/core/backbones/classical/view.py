"""One view of a pair, dense: inverse depth, confidence and evidence of motion from the flow and the camera's motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.backbones.classical.depth import InverseDepth, dense_inverse_depth, static_weight
from easi3r_ros.core.backbones.classical.evidence import depth_violation, plausible_range
from easi3r_ros.core.backbones.classical.flow import Flow
from easi3r_ros.core.backbones.classical.refine import Motion, robust_scale, robust_scale_2d
from easi3r_ros.core.backbones.classical.triangulate import Triangulation, triangulate

SAMPLE = (slice(1, None, 3), slice(1, None, 3))  # nodes that statistics are taken from


@dataclass(frozen=True)
class Measured:
    """What the flow says about a view, before gaps are filled. Inverse depths in units of 1 / |t|."""

    inverse_depth: np.ndarray  # (g, k) float32
    weight: np.ndarray  # (g, k) float32, 1 / variance of it as far as it is static
    evidence: np.ndarray  # (g, k) float32 >= 0, standard deviations


def measure(flow: Flow, motion: Motion | None, moving: np.ndarray | None) -> Measured:
    """What one flow says, given how the camera moved. motion None: not known, so nothing can be said.

    moving: (g, k) bool, nodes known to move, which must not influence what is static.
    """
    shape = flow.cycle.shape
    if motion is None:
        return Measured(np.ones(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    if motion.turns_only:
        return Measured(np.ones(shape, np.float32), np.zeros(shape, np.float32), _off_homography(flow, motion, moving))
    found = triangulate(flow.nodes, flow.target, flow.information, motion.R, motion.t, motion.camera)
    scale = np.float32(robust_scale(_static_sample(found.epipolar, moving)))
    epipolar = found.epipolar / scale
    information = _with_pose_error(found, scale, motion)
    weight = static_weight(information, epipolar, moving)
    violation = depth_violation(found.inverse_depth, information, *plausible_range(found.inverse_depth, weight))
    return Measured(found.inverse_depth, weight, np.hypot(epipolar, violation))


def finish(measured: Measured, unit: float) -> InverseDepth:
    """Gaps filled, and in units in which the inverse depth `unit` is one; a plane at depth 1 if nothing is known."""
    if not measured.weight.any():
        nothing = np.ones_like(measured.inverse_depth)
        return InverseDepth(values=nothing, confidence=nothing)
    return dense_inverse_depth(measured.inverse_depth, measured.weight, unit)


def typical_inverse_depth(views: tuple[Measured, Measured]) -> float:
    """Median inverse depth of the better known half of both views; 1 where nothing is known."""
    values = np.concatenate([view.inverse_depth[SAMPLE].ravel() for view in views])
    weights = np.concatenate([view.weight[SAMPLE].ravel() for view in views])
    good = (weights > np.median(weights)) & (values > 0)
    return float(np.median(values[good])) if good.any() else 1.0


def _with_pose_error(found: Triangulation, scale: float, motion: Motion) -> np.ndarray:
    """(g, k) 1 / variance of inverse depths that are also wrong by the parallax that a wrong rotation feigns."""
    feigned = np.float32(motion.turn_error * motion.camera.focal.mean())  # pixels
    flow = found.information / scale**2
    return flow / (1 + flow * (feigned / found.parallax) ** 2)


def _off_homography(flow: Flow, motion: Motion, moving: np.ndarray | None) -> np.ndarray:
    """(g, k) distance of the flow from what a turning camera sees, in standard deviations."""
    u, v = flow.nodes
    x, y, z = (row[0] * u + row[1] * v + row[2] for row in motion.homography.astype(np.float32))
    dx, dy = flow.target[0] - x / z, flow.target[1] - y / z
    xx, xy, yy = flow.information
    distance = np.sqrt(np.maximum(xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy, 0))
    return distance / np.float32(robust_scale_2d(_static_sample(distance, moving)))


def _static_sample(values: np.ndarray, moving: np.ndarray | None) -> np.ndarray:
    """(N,) some of the values (g, k), without those that are known to move unless that is all."""
    sample = values[SAMPLE].ravel()
    static = sample if moving is None else sample[~moving[SAMPLE].ravel()]
    return static if static.size else sample
