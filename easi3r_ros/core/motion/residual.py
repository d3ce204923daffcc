"""How far the optical flow of a pair is from the rigid motion that a network's pointmaps predict: their `PairMotion`.

The pose of the pointmaps is refined on the flow: what is then left off the epipolar lines does not depend on depth at
all. Along them the flow's depth is held against the network's, with the errors of both.

All of it is host work, on a sub-sample: images shrunk to what flow is measured on, pointmaps on the nodes of the flow.
The flow needs the images alone, so it runs in a thread while the network works (`MotionMeter.start`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from easi3r_ros.core.engine import Landing, Parcel
from easi3r_ros.core.geometry import focal_from_pointmap, weighted_median
from easi3r_ros.core.two_view.estimate import estimate_motion
from easi3r_ros.core.two_view.flow import (
    STEP,
    Flow,
    FlowEstimator,
    TrackedImage,
    flows_between,
    measured_size,
    node_pixels,
    to_pixels,
)
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
class NodePoints:
    """Pointmaps of a pair where the nodes of the flow are, on the host. Pair units, in a's camera."""

    pixels: np.ndarray  # (g, k, 2) float32 pixels (u, v) of the measured image that the points belong to
    points_a: np.ndarray  # (g, k, 3) float32
    points_b: np.ndarray  # (g, k, 3) float32
    conf_a: np.ndarray  # (g, k) float32 >= 1
    conf_b: np.ndarray  # (g, k) float32 >= 1


@dataclass(frozen=True)
class NodesOffered:
    """The same on its way to the host."""

    pixels: np.ndarray
    maps: tuple[Landing, Landing, Landing, Landing]

    def open(self) -> NodePoints:
        return NodePoints(self.pixels, *(landing.open().numpy() for landing in self.maps))


def offer_nodes(pair: PairGeometry, parcel: Parcel) -> NodesOffered:
    """Puts a pair's pointmaps, as they are between the four pixels around each node, into the parcel."""
    shape = tuple(pair.conf_a.shape)
    width, height = measured_size(shape[::-1])
    nodes = height // STEP, width // STEP
    maps = (pair.points_a.permute(2, 0, 1), pair.points_b.permute(2, 0, 1), pair.conf_a[None], pair.conf_b[None])
    landings = []
    for values in maps:
        thin = F.interpolate(values[None], nodes, mode="bilinear", align_corners=False)[0]
        landings.append(parcel.add(thin.permute(1, 2, 0) if len(thin) == 3 else thin[0]))
    return NodesOffered(np.moveaxis(node_pixels(height, width), 0, -1), tuple(landings))


def measured_intrinsics(K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(3, 3) K of a network's image of `size` (w, h) -> of the image that flow is measured on."""
    scale = np.array(measured_size(size)) / size
    out = K.astype(np.float64).copy()
    out[:2, 2] += 0.5
    out[:2] *= scale[:, None]
    out[:2, 2] -= 0.5
    return out


@dataclass(frozen=True)
class RelativePose:
    """Of one pair: as its pointmaps have it, and as the flow then refined it."""

    b_from_a: np.ndarray  # (4, 4) pair units
    camera: Camera  # before the flow was asked
    belief: FocalBelief
    refined: Motion  # of the camera from b to a


def relative_pose(
    points: NodePoints,
    K: np.ndarray | None,
    flow: PairFlow,
    longer: Motion | None = None,
    before: RelativePose | None = None,
) -> RelativePose | None:
    """None: neither pointmaps nor flow can say.

    K: (3, 3) intrinsics of both views, None: not known. longer: the camera's motion to a from a frame farther than b.
    before: what was found without knowing what moves.
    """
    matches = sample_matches(flow.backward, flow.forward, flow.moving_b, flow.moving_a)
    if before is not None:
        belief = before.belief
        refined = estimate_motion(matches, before.camera, belief, start=before.refined, longer=longer)
        return None if refined is None else replace(before, refined=refined)
    belief = _focal_belief(points.points_a, K, flow.forward.size)
    camera = camera_from(K, flow.forward.size, belief)
    b_from_a = pose_from_pointmap(points.points_b, points.pixels, camera)
    if b_from_a is None:
        return None
    guess = _as_motion(b_from_a, camera, belief).reversed()
    refined = estimate_motion(matches, camera, belief, longer=longer, guess=guess)
    return None if refined is None else RelativePose(b_from_a, camera, belief, refined)


def pair_motion(points: NodePoints, pose: RelativePose, flow: PairFlow) -> PairMotion:
    """Standard deviations by which the flow of both views misses that of a static world."""
    depth_b = cv2.transform(points.points_b, pose.b_from_a[:3])[..., 2]
    a = _violation(flow.forward, pose.refined.reversed(), points.points_a[..., 2], points.conf_a, flow.moving_a)
    b = _violation(flow.backward, pose.refined, depth_b, points.conf_b, flow.moving_b)
    maps = (to_pixels(a, flow.forward.size), to_pixels(b, flow.backward.size))
    return PairMotion(*(torch.from_numpy(x) for x in (*maps, flow.forward.confirmed, flow.backward.confirmed)))


def pose_from_pointmap(points_b: np.ndarray, pixels: np.ndarray, camera: Camera) -> np.ndarray | None:
    """(4, 4) b_from_a from b's pixels (g, k, 2) and their points (g, k, 3) in a's camera; None: none explains them."""
    rows, columns = points_b.shape[:2]
    step = max(1, int(np.sqrt(rows * columns / PNP_POINTS)))
    every = (slice(step // 2, None, step),) * 2
    points = points_b[every].reshape(-1, 3).astype(np.float64)
    pixels = pixels[every].reshape(-1, 2)
    usable = np.isfinite(points).all(1)
    if np.count_nonzero(usable) < PNP_FEWEST:
        return None
    found, rotation, translation, _ = cv2.solvePnPRansac(
        points[usable], np.ascontiguousarray(pixels[usable]), camera.matrix(), None, flags=cv2.SOLVEPNP_SQPNP,
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
    """(g, k) standard deviations by which a flow misses a static world. depth, confidence: (g, k), pair units."""
    if motion.turns_only:
        return off_homography(flow, motion, moving)
    fit = fit_rigid(flow, motion, moving)
    depth = np.maximum(np.nan_to_num(depth, nan=np.inf), np.float32(LEAST_DEPTH))
    expected, error = _as_seen_by_flow(1 / depth, confidence, fit, moving)
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


def _focal_belief(points_a: np.ndarray, K: np.ndarray | None, size: tuple[int, int]) -> FocalBelief:
    """size: (w, h) of the measured image."""
    if K is not None:
        return FocalBelief(0.0, np.inf)
    rows, columns = points_a.shape[:2]
    in_nodes = max(1e-3, focal_from_pointmap(torch.from_numpy(points_a), (columns / 2, rows / 2)))  # NaN: nonsense
    return FocalBelief(float(np.log(in_nodes * size[0] / columns)), FOCAL_DEVIATION**-2)


def _as_motion(b_from_a: np.ndarray, camera: Camera, belief: FocalBelief) -> Motion:
    R, t = b_from_a[:3, :3], b_from_a[:3, 3]
    return Motion(R, t / max(float(np.linalg.norm(t)), 1e-12), camera, belief)


class MotionMeter:
    """Adds `PairMotion` to pairs that have none. Keeps the flows of frames of the window. Not thread-safe.

    A frame goes: `start` (where something else is to be done meanwhile), `offer` with the pointmaps of the pairs that
    `measurable` names, `complete`; for a second pass over the same frame `complete` again, with masks.
    """

    def __init__(self) -> None:
        self._estimator = FlowEstimator()
        self._tracked: dict[int, TrackedImage] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future | None = None
        self._offered: dict[Edge, NodesOffered] = {}
        self._points: dict[Edge, NodePoints] = {}  # of the present frame
        self._poses: dict[Edge, RelativePose] = {}  # of the present frame, as its first pass found them

    @staticmethod
    def measurable(features: Mapping[int, Features], pairs: Sequence[PairAnswer]) -> set[Edge]:
        """Which of the pairs `offer` wants, with their pointmaps."""
        unmeasured = [pair.edge for pair in pairs if pair.evidence.motion is None]
        return set(measured_edges(unmeasured, _stamps(features)))

    def start(self, features: Mapping[int, Features], edges: Collection[Edge]) -> None:
        """Find the flows of the new frame's pairs, `edges`, in a thread."""
        chosen = measured_edges(edges, _stamps(features))
        self._forget(features)
        if chosen:
            self._thread = self._thread or ThreadPoolExecutor(1, "easi3r-flow")
            self._running = self._thread.submit(self._find_flows, dict(features), chosen)

    def flow(self, features: Mapping[int, Features], start: int, end: int) -> Flow | None:
        """From one frame to another, by index, if it was found for `start`; waits for the thread."""
        self._finish()
        tracked = self._tracked.get(start)
        return None if tracked is None or end not in features else tracked.flows.get(end)

    def offer(self, pairs: Sequence[PairGeometry], parcel: Parcel) -> None:
        """pairs: of the new frame, those that are `measurable`. What is needed of them goes into the parcel."""
        self._offered, self._points, self._poses = {pair.edge: offer_nodes(pair, parcel) for pair in pairs}, {}, {}

    def complete(
        self,
        features: Mapping[int, Features],
        pairs: Sequence[PairAnswer],
        moving: Mapping[int, np.ndarray] | None = None,
    ) -> list[PairAnswer]:
        """The pairs, in their order, with motion measured for those that were offered.

        features: every frame of the window. moving: frame index -> (g, k) bool, cells that are known to move, which
        must not influence what is expected of the static rest: the second pass, which measures the same pairs again.
        """
        self._points |= {edge: offered.open() for edge, offered in self._offered.items()}
        self._offered = {}
        self._finish()
        self._forget(features)
        if not self._points:
            return list(pairs)
        found = self._measure(features, moving or {})
        return [
            replace(pair, evidence=replace(pair.evidence, motion=found[pair.edge])) if pair.edge in found else pair
            for pair in pairs
        ]

    def reset(self) -> None:
        if self._running is not None:
            self._running.exception()  # waits; what went wrong concerns nobody any more
            self._running = None
        self._tracked, self._offered, self._points, self._poses = {}, {}, {}, {}

    def _finish(self) -> None:
        """Wait for the thread. Raises what it raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _forget(self, features: Mapping[int, Features]) -> None:
        self._finish()
        self._tracked = {index: tracked for index, tracked in self._tracked.items() if index in features}

    def _measure(self, features: Mapping[int, Features], moving: Mapping[int, np.ndarray]) -> dict[Edge, PairMotion]:
        """By edge, in both orders."""
        edges = measured_edges(self._points, _stamps(features))
        flows = self._find_flows(features, edges)
        found: dict[Edge, PairMotion] = {}
        longer: dict[int, Motion] = {}
        # Far frames know the camera's translation, of which near ones see little but noise.
        for a, b in reversed(edges):
            image = features[a].input
            K = None if image.K is None else measured_intrinsics(image.K, image.image.shape[1::-1])
            flow = PairFlow(*flows[a, b], _margin(moving.get(a)), _margin(moving.get(b)))
            pose = relative_pose(self._points[a, b], K, flow, longer.get(a), self._poses.get((a, b)))
            if pose is not None:
                self._poses[a, b] = pose
                longer.setdefault(a, pose.refined)
                found[a, b] = pair_motion(self._points[a, b], pose, flow)
                found[b, a] = found[a, b].swapped()
        return found

    def _find_flows(self, features: Mapping[int, Features], edges: Sequence[Edge]) -> dict[Edge, tuple[Flow, Flow]]:
        """Flow to near frames predicts that to far ones, where the search is harder."""
        return {
            (a, b): flows_between(self._image(features[a]), self._image(features[b]), self._estimator) for a, b in edges
        }

    def _image(self, features: Features) -> TrackedImage:
        if features.index not in self._tracked:
            image = features.input
            self._tracked[features.index] = TrackedImage.of(image, measured_size(image.image.shape[1::-1]))
        return self._tracked[features.index]


def _margin(moving: np.ndarray | None) -> np.ndarray | None:
    """(g, k) bool with a cell more on every side: flow next to a mover is the mover's. None if nothing moves."""
    if moving is None or not moving.any():
        return None
    return cv2.dilate(moving.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


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
