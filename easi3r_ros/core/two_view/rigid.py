"""What a dense flow says about a static world, given how the camera moved; everything in standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.two_view.flow import Flow
from easi3r_ros.core.two_view.refine import Motion, robust_scale, robust_scale_2d
from easi3r_ros.core.two_view.triangulate import Triangulation, triangulate

SAMPLE = (slice(1, None, 3), slice(1, None, 3))  # nodes that statistics are taken from


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
