"""One view of a pair, dense: inverse depth, confidence and evidence of motion from the flow and the camera's motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.backbones.classical.depth import InverseDepth, dense_inverse_depth, static_weight
from easi3r_ros.core.two_view.evidence import depth_violation, plausible_range
from easi3r_ros.core.two_view.flow import Flow
from easi3r_ros.core.two_view.refine import Motion
from easi3r_ros.core.two_view.rigid import SAMPLE, fit_rigid, off_homography


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
        return Measured(np.ones(shape, np.float32), np.zeros(shape, np.float32), off_homography(flow, motion, moving))
    fit = fit_rigid(flow, motion, moving)
    weight = static_weight(fit.information, fit.epipolar, moving)
    violation = depth_violation(fit.inverse_depth, fit.information, *plausible_range(fit.inverse_depth, weight))
    return Measured(fit.inverse_depth, weight, np.hypot(fit.epipolar, violation))


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
