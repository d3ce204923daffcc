"""Optical flow and two-view geometry: the backbone that needs no weights.

From the bottom up: dense depth of a view (triangulated where the flow allows it, filled smoothly where it does not),
what is kept of a frame, an unordered pair solved once for both of its orders, the backbone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.two_view.estimate import estimate_motion
from easi3r_ros.core.two_view.flow import (
    SMALLEST_SIDE,
    Flow,
    FlowEstimator,
    TrackedImage,
    flows_between,
    to_pixels,
    widened,
)
from easi3r_ros.core.two_view.refine import FocalBelief, Motion, camera_from, focal_from_fov, sample_matches
from easi3r_ros.core.two_view.rigid import (
    SAMPLE,
    depth_violation,
    fit_rigid,
    implausible_depth,
    off_homography,
    plausible_range,
)
from easi3r_ros.core.types import (
    Edge,
    Features,
    InputSpec,
    NetworkInput,
    PairEvidence,
    PairGeometry,
    PairMotion,
    Partners,
)

log = logging.getLogger(__name__)

DOUBTFUL_EPIPOLAR = 3.0  # standard deviations off the epipolar line at which a depth weighs a quarter
SURFACE_VARIATION = 0.1  # relative: how far inverse depth may differ from that of its surroundings
COARSER = 0.05  # weight of the next coarser level beside what a level knows itself
CONFIDENCE_PER_SIGNIFICANCE = 0.05  # confidence 1.2 is a depth known to 25 %, 3 one known to 2.5 %
MOST_CONFIDENT = 6.0
FARTHEST = 50.0  # median depths: what is called infinity
NEAREST = 50.0  # inverse median depths: nearer than that is noise
FARTHEST_BACK, NEAREST_BACK = 0.15, 0.08  # seconds between the frames of the longer of two pairs
REACH = 0.0156  # image widths: flow of the longer pair that is enough for parallax; more of it is lost
CELL = 8  # pixels per side of a token
STRONG_GRADIENT = 50.0  # grey levels per pixel
FORGETTING = 0.9  # per pair, of what was learned about the focal length: zoom lenses
MOST_FOCAL_INFORMATION = 0.02**-2  # log focal length: it will never be believed to better than 2 %
FOV_DEVIATION = 0.4  # of log focal length: how far off the assumed field of view may be


@dataclass(frozen=True)
class InverseDepth:
    values: np.ndarray  # (g, k) float32 > 0, in units of the inverse median depth of the pair
    confidence: np.ndarray  # (g, k) float32 >= 1


def static_weight(information: np.ndarray, epipolar: np.ndarray, moving: np.ndarray | None) -> np.ndarray:
    """(g, k) information about the depth of static things: less of it off the epipolar line, none where it moves."""
    weight = information / (1 + (epipolar / DOUBTFUL_EPIPOLAR) ** 2) ** 2
    if moving is not None:
        weight[moving] = 0
    return weight


def fill(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(g, k) weighted average of the surroundings of each node, as near as there is weight to be found, by a pyramid.

    values, weight: (g, k) float32, weight in [0, 1], 1 where a value is to be trusted alone.
    """
    levels = [(values * weight, weight)]
    while min(levels[-1][1].shape) > 2:
        levels.append(tuple(cv2.pyrDown(channel) for channel in levels[-1]))
    total, mass = levels[-1]
    average = np.full_like(mass, total.sum() / max(mass.sum(), 1e-12))
    for total, mass in reversed(levels):
        above = cv2.pyrUp(average, dstsize=mass.shape[::-1]) if average.shape != mass.shape else average
        average = (total + above * COARSER) / (mass + COARSER)
    return average


def dense_inverse_depth(inverse_depth: np.ndarray, weight: np.ndarray, unit: float) -> InverseDepth:
    """Blend of what was measured with what the surroundings suggest, each weighted by its information.

    inverse_depth: (g, k), weight: (g, k) 1 / variance of it where static. unit: inverse depth that becomes 1.
    """
    measured, weight = np.clip(inverse_depth / np.float32(unit), 0.0, NEAREST), weight * np.float32(unit**2)
    surroundings = fill(measured, np.minimum(weight * SURFACE_VARIATION**2, 1.0))
    prior = 1 / (SURFACE_VARIATION * np.maximum(surroundings, SURFACE_VARIATION)) ** 2
    values = np.maximum((weight * measured + prior * surroundings) / (weight + prior), 1 / FARTHEST)
    confidence = 1 + CONFIDENCE_PER_SIGNIFICANCE * values * np.sqrt(weight)
    return InverseDepth(values, np.minimum(confidence, MOST_CONFIDENT))


@dataclass
class Memo:
    """Results that later calls use again; they leave with the frame. Keys are the partner's frame index."""

    motions: dict[int, Motion | None] = field(default_factory=dict)  # to a later frame, by the first pass
    focal: FocalBelief | None = None  # of this frame, once it has been paired with an earlier one


@dataclass(frozen=True)
class ClassicalFeatures(Features):
    tracked: TrackedImage
    memo: Memo = field(default_factory=Memo)


def extract(image: NetworkInput) -> ClassicalFeatures:
    """Raises ValueError for an image too small for optical flow."""
    height, width = image.image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"optical flow needs at least {SMALLEST_SIDE} pixels on the short side, the image is {width} x {height}: "
            "raise preprocess.long_side"
        )
    tracked = TrackedImage.of(image)
    grid = (height // CELL, width // CELL)
    return ClassicalFeatures(image, _tokens(image.image, tracked.structure, grid), grid, tracked)


def _tokens(image: np.ndarray, structure: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """(gh * gw, 6) appearance of each cell, each number about 0 to 1: Lab colour and gradients along x, y and both."""
    cells = cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA).reshape(*grid, 3)
    lab = cv2.cvtColor(cells, cv2.COLOR_RGB2LAB).astype(np.float32) / 255
    xx, xy, yy = (cv2.resize(plane, grid[::-1], interpolation=cv2.INTER_AREA).reshape(grid) for plane in structure)
    gradients = np.stack([np.sqrt(xx) / STRONG_GRADIENT, np.sqrt(yy) / STRONG_GRADIENT, xy / np.sqrt(xx * yy + 1)], -1)
    return torch.from_numpy(np.concatenate([lab, gradients], -1).reshape(grid[0] * grid[1], 6))  # (gh, gw, 6) -> (N, 6)


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
    if motion.focal.known:
        violation = depth_violation(fit.inverse_depth, fit.information, *plausible_range(fit.inverse_depth, weight))
    else:  # depths are as wrong as the camera: nothing that may stand there is to be called a mover for its depth
        violation = implausible_depth(fit, weight)
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


class ClassicalBackbone(Backbone):
    """Pointmaps by triangulation, motion evidence from what no rigid motion explains.

    All frames must come from one camera. Intrinsics are the input's; where it has none, the focal length starts at the
    assumed field of view and is learned while the camera turns.
    """

    name = "classical"
    input_spec = InputSpec(long_side=320)
    detail = 2  # flow and depth are computed on every second pixel
    # The last frame, and one far enough back for parallax: by time, because a slow machine drops frames.
    default_partners = Partners(seconds=(0.0, FARTHEST_BACK))

    def __init__(self, horizontal_fov: float = 60.0):
        """horizontal_fov: degrees, assumed while intrinsics are not known."""
        self._horizontal_fov = horizontal_fov
        self._flow = FlowEstimator()
        self._advised = False

    def encode(self, image: NetworkInput) -> ClassicalFeatures:
        """Raises ValueError for an image too small for optical flow."""
        if image.K is None and not self._advised:
            self._advised = True
            log.warning(
                "the camera is not calibrated: its field of view is taken to be %g degrees until it turns. With a "
                "camera_info poses are 2 to 6 times better (KITTI: 1.2 instead of 6.7 %% of the path)",
                self._horizontal_fov,
            )
        return extract(image)

    def partners_after(self, frames: Sequence[ClassicalFeatures]) -> Partners:
        """As the base class: not so far back that a fast image has left what the flow can find."""
        speed = next((seen for frame in reversed(frames[:-1]) if (seen := frame.tracked.speed())), 0.0)
        share = speed / frames[-1].tracked.size[0]  # image widths per second
        longest = FARTHEST_BACK if not share else float(np.clip(REACH / share, NEAREST_BACK, FARTHEST_BACK))
        return Partners(seconds=(0.0, longest))

    def decode(
        self,
        pairs: Sequence[tuple[ClassicalFeatures, ClassicalFeatures]],
        masks: Mapping[int, torch.Tensor] | None = None,
    ) -> list[PairGeometry]:
        moving = {index: widened(mask.cpu().numpy()) for index, mask in (masks or {}).items() if bool(mask.any())}
        solutions = self._solve(pairs, moving)
        return [_answer(a, b, solutions[min(a.index, b.index), max(a.index, b.index)]) for a, b in pairs]

    def _solve(
        self, pairs: Sequence[tuple[ClassicalFeatures, ClassicalFeatures]], moving: Mapping[int, np.ndarray]
    ) -> dict[Edge, Solution]:
        """Every unordered pair once."""
        unordered = {}
        for pair in pairs:
            first, second = sorted(pair, key=lambda features: features.index)
            unordered[first.index, second.index] = first, second
        near_to_far = sorted(unordered.values(), key=lambda pair: pair[1].index - pair[0].index)
        # Flow to near frames predicts that to far ones, where the search is harder.
        known = [with_flow(first, second, self._flow) for first, second in near_to_far]
        # Far frames know the camera's translation, of which near ones see little but noise.
        solutions: dict[Edge, Solution] = {}
        longer: dict[int, Motion | None] = {}
        for pair in reversed(known):
            prior = self._focal_prior(pair.first.tracked.size[0])
            motion = solve_motion(pair, moving, prior, longer.get(pair.second.index))
            longer.setdefault(pair.second.index, motion)
            solutions[pair.edge] = solve_views(pair, motion, moving, prior)
        return solutions

    def _focal_prior(self, width: int) -> FocalBelief:
        return FocalBelief(float(np.log(focal_from_fov(width, self._horizontal_fov))), FOV_DEVIATION**-2)


def _answer(a: ClassicalFeatures, b: ClassicalFeatures, solution: Solution) -> PairGeometry:
    if a.index <= b.index:
        a_from_b, views = np.linalg.inv(solution.second_from_first), (solution.first, solution.second)
    else:
        a_from_b, views = solution.second_from_first, (solution.second, solution.first)
    return PairGeometry(
        a=a.index,
        b=b.index,
        points_a=torch.from_numpy(views[0].points),
        points_b=torch.from_numpy(_transformed(a_from_b, views[1])),
        conf_a=torch.from_numpy(views[0].confidence),
        conf_b=torch.from_numpy(views[1].confidence),
        evidence=PairEvidence(
            motion=PairMotion(
                *(torch.from_numpy(view.evidence) for view in views), *(torch.from_numpy(view.flow) for view in views)
            )
        ),
    )


def _transformed(pose: np.ndarray, view: View) -> np.ndarray:
    """(h, w, 3) points of a view in the coordinates that the (4, 4) pose leads to."""
    return cv2.transform(view.points, pose[:3])
