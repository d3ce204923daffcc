"""How far the optical flow of a pair is from the rigid motion that a network's pointmaps predict: their `PairMotion`.

The pose of the pointmaps is refined on the flow: what is then left off the epipolar lines does not depend on depth at
all. Along them the flow's depth is held against the network's, with the errors of both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from easi3r_ros.core.geometry import focal_from_pointmap, weighted_median
from easi3r_ros.core.two_view.estimate import estimate_motion
from easi3r_ros.core.two_view.flow import Flow, FlowEstimator, TrackedImage, flows_between, on_grid, to_pixels, widened
from easi3r_ros.core.two_view.refine import Camera, FocalBelief, Motion, camera_from, geman_mcclure, sample_matches
from easi3r_ros.core.two_view.rigid import SAMPLE, RigidFit, depth_violation, fit_rigid, off_homography
from easi3r_ros.core.types import Edge, Features, PairAnswer, PairGeometry, PairMotion

FOCAL_DEVIATION = 0.05  # of log focal length from a pointmap
PNP_POINTS = 800
PNP_FEWEST = 6
PNP_ERROR = 5.0  # pixels
PNP_ITERATIONS = 30
SIGNIFICANT = 5.0  # standard deviations of a depth beyond which it counts no more for scale and error
LEAST_DEPTH_ERROR = 0.02  # relative: no network is better everywhere
MEDIAN_OF_SQUARED_NORMAL = 0.4549  # of x^2 at unit deviation
SURROUNDINGS = 7  # nodes: a static node may have any depth that the network sees this near, as flow smears borders
LEAST_DEPTH = 1e-6  # pair units; nearer is behind the camera
# A frame's pairs with those taken so long before it are measured: the last one shows what is fast, which flow loses
# over a longer time, a longer time shows what is slow. All of ten pairs would take longer than a network on a GPU.
SECONDS = (0.0, 0.15, 0.4)


@dataclass(frozen=True)
class PairFlow:
    """Flow between the views of a pair, and where they are known to move, which must not influence the static rest."""

    forward: Flow  # a -> b
    backward: Flow  # b -> a
    moving_a: np.ndarray | None = None  # (g, k) bool
    moving_b: np.ndarray | None = None  # (g, k) bool


@dataclass(frozen=True)
class RelativePose:
    """Of one pair: as its pointmaps have it, and as the flow then refined it."""

    b_from_a: np.ndarray  # (4, 4) pair units
    refined: Motion  # of the camera from b to a


def relative_pose(
    pair: PairGeometry, K: np.ndarray | None, flow: PairFlow, longer: Motion | None = None
) -> RelativePose | None:
    """None: neither pointmaps nor flow can say.

    K: (3, 3) intrinsics of both views, None: not known. longer: the camera's motion to a from a frame farther than b.
    """
    belief = _focal_belief(pair.points_a, K)
    camera = camera_from(K, flow.forward.size, belief)
    b_from_a = pose_from_pointmap(pair.points_b.cpu().numpy(), camera)
    if b_from_a is None:
        return None
    matches = sample_matches(flow.backward, flow.forward, flow.moving_b, flow.moving_a)
    guess = _as_motion(b_from_a, camera, belief).reversed()
    refined = estimate_motion(matches, camera, belief, longer=longer, guess=guess)
    return None if refined is None else RelativePose(b_from_a, refined)


def pair_motion(pair: PairGeometry, pose: RelativePose, flow: PairFlow) -> PairMotion:
    """Standard deviations by which the flow of both views misses that of a static world."""
    depth_a = pair.points_a[..., 2].cpu().numpy()
    depth_b = cv2.transform(pair.points_b.cpu().numpy(), pose.b_from_a[:3])[..., 2]
    a = _violation(flow.forward, pose.refined.reversed(), depth_a, pair.conf_a.cpu().numpy(), flow.moving_a)
    b = _violation(flow.backward, pose.refined, depth_b, pair.conf_b.cpu().numpy(), flow.moving_b)
    maps = (to_pixels(a, flow.forward.size), to_pixels(b, flow.backward.size))
    return PairMotion(*(torch.from_numpy(x) for x in (*maps, flow.forward.confirmed, flow.backward.confirmed)))


def pose_from_pointmap(points_b: np.ndarray, camera: Camera) -> np.ndarray | None:
    """(4, 4) b_from_a from b's pixels and their points (h, w, 3) in a's camera; None: no pose explains them."""
    height, width = points_b.shape[:2]
    step = max(1, int(np.sqrt(height * width / PNP_POINTS)))
    v, u = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    points = points_b[v, u].reshape(-1, 3).astype(np.float64)
    pixels = np.stack([u, v], -1).reshape(-1, 2).astype(np.float64)
    usable = np.isfinite(points).all(1)
    if np.count_nonzero(usable) < 6:
        return None
    found, rotation, translation, _ = cv2.solvePnPRansac(
        points[usable], pixels[usable], camera.matrix(), None, flags=cv2.SOLVEPNP_SQPNP,
        reprojectionError=PNP_ERROR, iterationsCount=PNP_ITERATIONS,
    )  # fmt: skip
    if not found:
        return None
    b_from_a = np.eye(4)
    b_from_a[:3, :3], b_from_a[:3, 3] = cv2.Rodrigues(rotation)[0], translation[:, 0]
    return b_from_a


def _violation(
    flow: Flow, motion: Motion, depth: np.ndarray, confidence: np.ndarray, moving: np.ndarray | None
) -> np.ndarray:
    """(g, k) standard deviations by which a flow misses a static world. depth, confidence: (h, w), pair units."""
    if motion.turns_only:
        return off_homography(flow, motion, moving)
    fit = fit_rigid(flow, motion, moving)
    depth = np.maximum(np.nan_to_num(on_grid(depth), nan=np.inf), np.float32(LEAST_DEPTH))
    expected, error = _as_seen_by_flow(1 / depth, on_grid(confidence), fit, moving)
    window = np.ones((SURROUNDINGS, SURROUNDINGS), np.uint8)
    low, high = cv2.erode(expected, window), cv2.dilate(expected, window)
    information = fit.information / (1 + fit.information * error * error)
    return np.hypot(fit.epipolar, depth_violation(fit.inverse_depth, information, low, high))


def _as_seen_by_flow(
    inverse_depth: np.ndarray, confidence: np.ndarray, fit: RigidFit, moving: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The network's inverse depth (g, k) in the flow's unit, and its standard deviation, both learned from the static.

    The error is taken to be relative and inverse to confidence, as in the loss that trains confidence.
    """
    weight = _weight(fit, moving)
    scale = _median(fit.inverse_depth / inverse_depth, weight)
    expected = inverse_depth * np.float32(max(scale, 0.0))
    relative = confidence / np.maximum(expected, 1e-12)
    squared = _median(((fit.inverse_depth - expected) * relative) ** 2, weight) / MEDIAN_OF_SQUARED_NORMAL
    by_flow = _median(relative**2 / fit.information, weight)  # the rest is the network's
    error = np.float32(np.sqrt(max(squared - by_flow, 0.0)))
    return expected, expected * np.maximum(error / confidence, np.float32(LEAST_DEPTH_ERROR))


def _weight(fit: RigidFit, moving: np.ndarray | None) -> np.ndarray:
    """(g, k) how much a node tells of the relation between two depths: on the epipolar line and well measured."""
    significance = np.minimum(np.maximum(fit.inverse_depth, 0) ** 2 * fit.information, SIGNIFICANT**2)
    weight = significance * geman_mcclure(fit.epipolar, 1.0)
    return weight if moving is None else np.where(moving, 0, weight)


def _median(values: np.ndarray, weight: np.ndarray) -> float:
    """Weighted median of some of the nodes; 0 if none has weight."""
    values, weight = values[SAMPLE].ravel(), weight[SAMPLE].ravel()
    if not weight.any():
        return 0.0
    return float(weighted_median(torch.from_numpy(values), torch.from_numpy(weight)))


def _focal_belief(points_a: torch.Tensor, K: np.ndarray | None) -> FocalBelief:
    if K is not None:
        return FocalBelief(0.0, np.inf)
    height, width = points_a.shape[:2]
    return FocalBelief(float(np.log(focal_from_pointmap(points_a, (width / 2, height / 2)))), FOCAL_DEVIATION**-2)


def _as_motion(b_from_a: np.ndarray, camera: Camera, belief: FocalBelief) -> Motion:
    R, t = b_from_a[:3, :3], b_from_a[:3, 3]
    return Motion(R, t / max(float(np.linalg.norm(t)), 1e-12), camera, belief)


class MotionMeter:
    """Adds `PairMotion` to pairs that have none. Keeps the flows of frames of the window. Not thread-safe."""

    def __init__(self) -> None:
        self._estimator = FlowEstimator()
        self._tracked: dict[int, TrackedImage] = {}

    @staticmethod
    def measurable(features: Mapping[int, Features], pairs: Sequence[PairAnswer]) -> set[Edge]:
        """Which of the pairs `complete` needs with their pointmaps, on the host."""
        unmeasured = [pair.edge for pair in pairs if pair.evidence.motion is None]
        return set(measured_edges(unmeasured, _stamps(features)))

    def complete(
        self,
        features: Mapping[int, Features],
        pairs: Sequence[PairAnswer],
        masks: Mapping[int, torch.Tensor] | None = None,
    ) -> list[PairAnswer]:
        """The pairs, in their order, with motion measured for some of those that had none.

        features: every frame of the window. pairs: those that are `measurable` have pointmaps. masks: frame index ->
        (h, w) bool, True on what is known to move, which must not influence what is expected of the static rest.
        """
        self._tracked = {index: tracked for index, tracked in self._tracked.items() if index in features}
        unmeasured = {pair.edge: pair for pair in pairs if pair.evidence.motion is None}
        if not unmeasured:
            return list(pairs)
        found = self._measure(features, unmeasured, masks or {})
        return [
            replace(pair, evidence=replace(pair.evidence, motion=found[pair.edge])) if pair.edge in found else pair
            for pair in pairs
        ]

    def reset(self) -> None:
        self._tracked = {}

    def _measure(
        self,
        features: Mapping[int, Features],
        pairs: Mapping[Edge, PairAnswer],
        masks: Mapping[int, torch.Tensor],
    ) -> dict[Edge, PairMotion]:
        """By edge, in both orders."""
        moving = {index: widened(mask.cpu().numpy()) for index, mask in masks.items() if bool(mask.any())}
        edges = measured_edges(pairs, _stamps(features))
        # Flow to near frames predicts that to far ones, where the search is harder.
        flows = {(a, b): self._flow(features[a], features[b], moving) for a, b in edges}
        found: dict[Edge, PairMotion] = {}
        longer: dict[int, Motion] = {}
        # Far frames know the camera's translation, of which near ones see little but noise.
        for a, b in reversed(edges):
            pose = relative_pose(pairs[a, b], features[a].input.K, flows[a, b], longer.get(a))
            if pose is not None:
                longer.setdefault(a, pose.refined)
                found[a, b] = pair_motion(pairs[a, b], pose, flows[a, b])
                found[b, a] = found[a, b].swapped()
        return found

    def _flow(self, a: Features, b: Features, moving: Mapping[int, np.ndarray]) -> PairFlow:
        flows = flows_between(self._image(a), self._image(b), self._estimator)
        return PairFlow(*flows, moving.get(a.index), moving.get(b.index))

    def _image(self, features: Features) -> TrackedImage:
        if features.index not in self._tracked:
            self._tracked[features.index] = TrackedImage.of(features.input)
        return self._tracked[features.index]


def _stamps(features: Mapping[int, Features]) -> dict[int, int]:
    return {index: f.input.frame.stamp_ns for index, f in features.items()}


def measured_edges(edges: Collection[Edge], stamps: Mapping[int, int]) -> list[Edge]:
    """One per frame and entry of SECONDS as far as there are enough, near to far in time.

    Of the two orders of a pair, that whose reference view is the newer frame, where there is a choice: what the pair
    says about the newest frame is what matters. stamps: by frame index, nanoseconds.
    """
    by_frames = {(max(edge), min(edge)): edge for edge in sorted(edges)}
    chosen: set[Edge] = set()
    for newer in {newer for newer, _ in by_frames}:
        for seconds in SECONDS:
            free = [pair for pair in by_frames if pair[0] == newer and pair not in chosen]
            if free:
                chosen.add(min(free, key=lambda pair: (abs(_age(pair, stamps) - seconds), -pair[1])))
    return [by_frames[pair] for pair in sorted(chosen, key=lambda pair: _age(pair, stamps))]


def _age(edge: Edge, stamps: Mapping[int, int]) -> float:
    """Seconds between the frames of (newer, older)."""
    return (stamps[edge[0]] - stamps[edge[1]]) * 1e-9
