"""An unordered pair of frames, solved once for both of its orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.backbones.classical.features import ClassicalFeatures
from easi3r_ros.core.backbones.classical.view import finish, measure, typical_inverse_depth
from easi3r_ros.core.two_view.camera import FocalBelief, camera_from
from easi3r_ros.core.two_view.estimate import estimate_motion
from easi3r_ros.core.two_view.flow import Flow, FlowEstimator, to_pixels
from easi3r_ros.core.two_view.matches import sample_matches
from easi3r_ros.core.two_view.refine import Motion
from easi3r_ros.core.two_view.tracked import flows_between

FORGETTING = 0.9  # per pair, of what was learned about the focal length: zoom lenses
MOST_FOCAL_INFORMATION = 0.02**-2  # log focal length: it will never be believed to better than 2 %


@dataclass(frozen=True)
class View:
    points: np.ndarray  # (h, w, 3) float32 in the view's own camera, in units of the pair's median depth
    confidence: np.ndarray  # (h, w) float32 >= 1
    evidence: np.ndarray  # (h, w) float32 >= 0, standard deviations off the rigid motion
    flow: np.ndarray  # (2, g, k) float32 pixels to the other view, NaN where it is not sure


@dataclass(frozen=True)
class Solution:
    """first and second: by frame index."""

    first: View
    second: View
    second_from_first: np.ndarray  # (4, 4) float64


@dataclass(frozen=True)
class FramePair:
    """Two frames, the earlier one first, and the flow between them."""

    first: ClassicalFeatures
    second: ClassicalFeatures
    forward: Flow  # first -> second
    backward: Flow

    @property
    def edge(self) -> tuple[int, int]:
        return self.first.index, self.second.index


def with_flow(first: ClassicalFeatures, second: ClassicalFeatures, estimator: FlowEstimator) -> FramePair:
    """The flow between two frames, computed once and kept with them."""
    return FramePair(first, second, *flows_between(first.tracked, second.tracked, estimator))


def solve_motion(
    pair: FramePair, moving: Mapping[int, np.ndarray], prior: FocalBelief, longer: Motion | None
) -> Motion | None:
    """How the camera moved from the first frame to the second; None: cannot be said.

    moving: frame index -> (g, k) bool, nodes to leave out. prior: what is believed about an unknown focal length.
    longer: the motion to the second frame from one before the first, if known.
    """
    first, second = pair.first, pair.second
    belief = FocalBelief(0.0, np.inf) if first.input.K is not None else _belief(first, prior)
    camera = camera_from(first.input.K, first.tracked.size, belief)
    matches = sample_matches(pair.forward, pair.backward, moving.get(first.index), moving.get(second.index))
    motion = estimate_motion(matches, camera, belief, first.memo.motions.get(second.index), longer)
    first.memo.motions.setdefault(second.index, motion)
    if motion is not None and not belief.known:
        known = second.memo.focal
        second.memo.focal = motion.focal if known is None else max(known, motion.focal, key=lambda f: f.information)
    return motion


def solve_views(
    pair: FramePair, motion: Motion | None, moving: Mapping[int, np.ndarray], prior: FocalBelief
) -> Solution:
    """Depth, confidence and evidence of motion of both frames, given the camera's motion. As `solve_motion`."""
    first = pair.first
    reverse = None if motion is None else motion.reversed()
    measured = (
        measure(pair.forward, motion, moving.get(first.index)),
        measure(pair.backward, reverse, moving.get(pair.second.index)),
    )
    unit = typical_inverse_depth(measured)
    camera = motion.camera if motion else camera_from(first.input.K, first.tracked.size, _belief(first, prior))
    views = []
    for view, flow in zip(measured, (pair.forward, pair.backward), strict=True):
        depth = finish(view, unit)
        inverse_depth, confidence, evidence = (
            to_pixels(nodes, first.tracked.size) for nodes in (depth.values, depth.confidence, view.evidence)
        )
        views.append(View(_points(inverse_depth, camera.matrix()), confidence, evidence, flow.confirmed))
    second_from_first = np.eye(4)
    if motion is not None:
        second_from_first[:3, :3], second_from_first[:3, 3] = motion.R, motion.t * unit
    return Solution(*views, second_from_first)


def _belief(frame: ClassicalFeatures, prior: FocalBelief) -> FocalBelief:
    """About the focal length of an earlier frame, before its pair with a later one is looked at."""
    learned = frame.memo.focal or prior
    information = min(learned.information * FORGETTING, MOST_FOCAL_INFORMATION)
    return FocalBelief(learned.log_focal, max(information, prior.information))


def _points(inverse_depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, w, 3) float32 points in the camera's own frame."""
    height, width = inverse_depth.shape
    z = 1 / inverse_depth
    x = (np.arange(width, dtype=np.float32)[None] - np.float32(K[0, 2])) / np.float32(K[0, 0])
    y = (np.arange(height, dtype=np.float32)[:, None] - np.float32(K[1, 2])) / np.float32(K[1, 1])
    return np.stack([x * z, y * z, z], axis=-1)
