"""The real-time alignment: a new frame is attached to the existing world; nothing earlier is computed again.

The first pair with parallax fixes the world: its frame is the origin and its median depth the unit (unless the backbone
is metric). After that a new frame t is placed by reprojection: pair (t, k) says where the pixels of an anchor k appear
in t, the world says where their points are. Its depth is then fused from the pairs, each brought to the world's scale
by the median depth ratio with its anchor, and from the anchors' own depth carried along.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from easi3r_ros.core.alignment.depth import carry, fuse, information, occluded, pair_scale
from easi3r_ros.core.alignment.registration import Registration, median_error, register, robust_similarity
from easi3r_ros.core.config import AlignmentConfig
from easi3r_ros.core.geometry import (
    focal_from_pointmap,
    intrinsics,
    invert_se3,
    pixel_grid,
    project,
    transform,
    unproject,
)
from easi3r_ros.core.types import AlignedFrame, PairGeometry, TrackingState

SAMPLES = 1500  # pixels per pair from which poses and scales are estimated: more would not make them better
PARALLAX_SHARE = 0.15  # share of confident pixels from which a pair may fix the world
LOST_INLIERS, WEAK_INLIERS = 0.3, 0.7  # weighted share of points that reproject within the inlier threshold
CARRY_DECAY = 0.97  # carried confidence fades, so that new measurements win over old mistakes
MAX_CONFIDENCE = 50.0  # beyond it a pixel would never be corrected again
PAIR_CONFIDENCE_FLOOR = 0.05  # a pair without parallax knows no depth but still knows the rotation
MAX_PIXEL_NOISE = 0.02  # radians; a pair that misplaces its own pixels by more is garbage
PRIOR_SIGMA = 1e3  # covariance of a pose about which nothing is known, in world units / radians


@dataclass
class _Anchor:
    """An aligned frame as others are registered to it."""

    frame: AlignedFrame
    static: torch.Tensor  # (h, w) float32 weight, 1 where static

    @cached_property
    def points(self) -> torch.Tensor:
        """(h, w, 3) float32 in its own camera; NaN where its depth is not known."""
        return unproject(self.frame.depth, torch.from_numpy(self.frame.K))

    @cached_property
    def known(self) -> bool:
        """Whether it has any depth to register to."""
        return bool((self.frame.confidence > 1.0).any())

    @property
    def world_from_cam(self) -> torch.Tensor:
        return torch.from_numpy(self.frame.world_from_cam)


@dataclass(frozen=True)
class _Observation:
    """Points of an anchor, and where one pair sees them from the new frame."""

    world: torch.Tensor  # (N, 3) world points
    in_new: torch.Tensor  # (N, 3) the same in the new camera, pair units
    pixels: torch.Tensor  # (N, 2) their projection
    weights: torch.Tensor  # (N,) >= 0
    noise_px: float  # error of the pixels


@dataclass(frozen=True)
class _DepthView:
    """What one pair says about the new frame's depth."""

    estimates: list[tuple[torch.Tensor, torch.Tensor]]  # (h, w) depth in world units, (h, w) confidence
    carried: torch.Tensor | None = None  # (h, w) the estimate that comes from the anchor's own depth
    residual: float | None = None  # None: the pair knows no depth


class IncrementalAligner:
    """Poses and depth of a stream of frames. Remembers `memory` frames, whatever the length of the stream."""

    def __init__(self, config: AlignmentConfig, memory: int, metric: bool = False):
        self.config = config
        self._memory = memory
        self._metric = metric
        self.reset()

    def reset(self) -> None:
        """Start a new world at the next frame."""
        self._anchors: OrderedDict[int, _Anchor] = OrderedDict()
        self._pose = np.eye(4)  # world_from_cam of the newest frame
        self._focal: float | None = None
        self._focal_frames = 0
        self._started = False
        self._typical_depth = 1.0  # world units; a new piece of world takes it over, so that the scale does not jump

    def update(
        self,
        index: int,
        pairs: Sequence[PairGeometry],
        masks: Mapping[int, torch.Tensor],
        K: np.ndarray | None,
        shape: tuple[int, int],
    ) -> AlignedFrame:
        """Place frame `index` in the world.

        pairs: pairs between this frame and earlier ones, both orders; masks: frame index -> (h, w) bool, True on
        movers; K: (3, 3) intrinsics at network size, None if unknown (then one shared focal length is estimated);
        shape: (h, w).
        """
        K = self._intrinsics(index, pairs, K, shape)
        static = self._static_weight(masks.get(index), shape, pairs)
        if self._started:
            aligned = self._track(index, pairs, static, K, shape)
        else:
            aligned = self._initialise(index, pairs, masks, static, K, shape)
        self._remember(_Anchor(aligned, static))
        self._pose = aligned.world_from_cam
        return aligned

    # -- intrinsics and weights ------------------------------------------------------------------------------------

    def _intrinsics(
        self, index: int, pairs: Sequence[PairGeometry], K: np.ndarray | None, shape: tuple[int, int]
    ) -> np.ndarray:
        if K is not None:
            return K
        size = (shape[1], shape[0])
        own = [pair for pair in pairs if pair.a == index]
        if own:
            principal = (size[0] / 2, size[1] / 2)
            estimate = float(np.median([focal_from_pointmap(pair.points_a, principal) for pair in own]))
            self._focal_frames = min(self._focal_frames + 1, 100)  # a running mean that can still follow a zoom
            previous = estimate if self._focal is None else self._focal
            self._focal = previous + (estimate - previous) / self._focal_frames
        return intrinsics(self._focal or float(max(size)), size)

    def _static_weight(
        self, mask: torch.Tensor | None, shape: tuple[int, int], pairs: Sequence[PairGeometry]
    ) -> torch.Tensor:
        device = pairs[0].points_a.device if pairs else "cpu"
        if mask is None or not self.config.static_weighting:
            return torch.ones(shape, device=device)
        return 1.0 - mask.to(device=device, dtype=torch.float32)

    # -- the first frames ------------------------------------------------------------------------------------------

    def _initialise(self, index, pairs, masks, static, K, shape) -> AlignedFrame:
        """Rotation only, until a pair has parallax; that pair then fixes origin and unit."""
        strongest = max(
            (pair for pair in pairs if pair.a == index), key=lambda pair: float(pair.conf_a.mean()), default=None
        )
        if strongest is None or strongest.b not in self._anchors:
            return self._blank(index, self._pose, K, shape, static.device, "first frame")
        anchor = self._anchors[strongest.b]
        confident = float((strongest.conf_b >= self.config.min_confidence).float().mean())
        try:
            relative = self._pair_pose(strongest, anchor.static, K)
        except ValueError as error:
            return self._blank(index, self._pose, K, shape, static.device, str(error))
        if confident < PARALLAX_SHARE:
            rotated = anchor.frame.world_from_cam.copy()
            rotated[:3, :3] = rotated[:3, :3] @ relative[:3, :3].numpy()
            return self._blank(index, rotated, K, shape, static.device, "not enough parallax yet: move the camera")
        self._found_world(strongest, anchor, relative, K)
        self._started = True
        return self._track(index, pairs, static, K, shape)

    def _pair_pose(self, pair: PairGeometry, static_b: torch.Tensor, K: np.ndarray) -> torch.Tensor:
        """(4, 4) b_from_a of a pair, in pair units: PnP of b's points (in a's camera) on b's own pixels."""
        step = _sampling(pair.points_b.shape[:2])
        points = pair.points_b[step].reshape(-1, 3)
        weights = (information(pair.conf_b) + PAIR_CONFIDENCE_FLOOR) * static_b
        pixels = pixel_grid(*pair.points_b.shape[:2], device=points.device)[step].reshape(-1, 2)
        start = torch.eye(4, dtype=torch.float64, device=points.device)
        K_ = torch.from_numpy(K).to(points.device)
        # `register` returns world_from_cam with a as the world and b as the camera: a_from_b.
        a_from_b = register(points, pixels, weights[step].reshape(-1), K_, start, 30).world_from_cam
        return invert_se3(a_from_b).cpu()

    def _found_world(self, pair: PairGeometry, anchor: _Anchor, b_from_a: torch.Tensor, K: np.ndarray) -> None:
        """Give the anchor (view b of the pair) its depth, and the world its unit."""
        depth = transform(b_from_a.to(pair.points_b), pair.points_b)[..., 2]
        confident = pair.conf_b >= self.config.min_confidence
        unit = 1.0 if self._metric else float(depth[confident].median()) / self._typical_depth
        frame = anchor.frame
        self._anchors[frame.index] = _Anchor(
            AlignedFrame(
                frame.index, frame.world_from_cam, frame.covariance, K, depth / unit, pair.conf_b, 0.0, frame.state
            ),
            anchor.static,
        )

    # -- tracking --------------------------------------------------------------------------------------------------

    def _track(self, index, pairs, static, K, shape) -> AlignedFrame:
        usable = [pair for pair in pairs if self._anchor_of(pair, index) is not None]
        try:
            registration = self._register(index, usable, K)
        except ValueError as error:
            return self._lost(index, K, shape, static.device, str(error))
        if registration.inliers < LOST_INLIERS:
            reason = f"only {registration.inliers:.0%} of the static points are where the world predicts them"
            return self._lost(index, K, shape, static.device, reason)
        depth, confidence, residual = self._depth(index, usable, static, registration.world_from_cam)
        self._typical_depth = float(depth.nanmedian())
        weak = registration.inliers < WEAK_INLIERS
        return AlignedFrame(
            index=index,
            world_from_cam=registration.world_from_cam.cpu().numpy(),
            covariance=_covariance(registration),
            K=K,
            depth=depth,
            confidence=confidence,
            residual=residual,
            state=TrackingState.DEGRADED if weak else TrackingState.TRACKING,
            reason=f"{registration.inliers:.0%} of the static points agree with the pose" if weak else "",
        )

    def _anchor_of(self, pair: PairGeometry, index: int) -> _Anchor | None:
        """The earlier frame of a pair, if the world knows its depth."""
        anchor = self._anchors.get(pair.b if pair.a == index else pair.a)
        return anchor if anchor is not None and anchor.known else None

    def _register(self, index: int, pairs: Sequence[PairGeometry], K: np.ndarray) -> Registration:
        intrinsics_ = torch.from_numpy(K)
        seen = [self._observe(pair, self._anchor_of(pair, index), intrinsics_) for pair in pairs if pair.a == index]
        seen = [item for item in seen if item.noise_px <= MAX_PIXEL_NOISE * K[0, 0]]
        if not seen:
            raise ValueError("no usable pair with a frame whose depth is known")
        strongest = max(seen, key=lambda item: float(item.weights.sum()))
        if not bool((strongest.weights > 0).any()):
            raise ValueError("no static pixel with known depth is seen again")
        world, pixels, weights = (
            torch.cat([getattr(s, name) for s in seen]) for name in ("world", "pixels", "weights")
        )
        intrinsics_ = intrinsics_.to(world.device)
        # Where the camera was, for the usual small step; Procrustes (METHOD 7), for a leap after dropped frames.
        starts = [
            torch.from_numpy(self._pose).to(world.device),
            robust_similarity(strongest.in_new, strongest.world, strongest.weights),
        ]
        start = min(starts, key=lambda pose: median_error(world, pixels, weights, intrinsics_, pose))
        noise = max(item.noise_px for item in seen)
        return register(world, pixels, weights, intrinsics_, start, self.config.iterations, noise)

    def _observe(self, pair: PairGeometry, anchor: _Anchor, K: torch.Tensor) -> _Observation:
        """What pair (new, anchor) says about where the anchor's points are seen now."""
        step = _sampling(pair.points_b.shape[:2])
        world = transform(anchor.world_from_cam.to(pair.points_b), anchor.points[step]).reshape(-1, 3)
        in_new = pair.points_b[step].reshape(-1, 3)
        # The anchor's own confidence: a still camera has pairs without parallax, yet its world is well known.
        weights = information(anchor.frame.confidence[step]) * (information(pair.conf_b[step]) + PAIR_CONFIDENCE_FLOOR)
        weights = (weights * anchor.static[step]).reshape(-1)
        weights = torch.where((in_new[:, 2] > 0) & torch.isfinite(world[:, 2]), weights, torch.zeros_like(weights))
        return _Observation(torch.nan_to_num(world), in_new, project(in_new, K), weights, _pixel_noise(pair, K, step))

    def _depth(self, index, pairs, static, world_from_cam) -> tuple[torch.Tensor, torch.Tensor, float]:
        """(h, w) depth and confidence of the new frame, and how well the pairs agree with the world (relative)."""
        cam_from_world = invert_se3(world_from_cam)
        views = []
        for pair in pairs:
            view = self._from_new if pair.a == index else self._from_anchor
            views.append(view(pair, self._anchor_of(pair, index), static, cam_from_world))
        depths, confidences = zip(*(estimate for view in views for estimate in view.estimates), strict=True)
        depth, confidence = fuse(torch.stack(depths), torch.stack(confidences))
        depth = _hold_scale(depth, [view.carried for view in views if view.carried is not None])
        residuals = [view.residual for view in views if view.residual is not None]
        residual = float(np.mean(residuals)) if residuals else 0.0
        return depth, confidence.clamp(max=MAX_CONFIDENCE), residual

    def _from_new(self, pair, anchor, static, cam_from_world) -> _DepthView:
        """Depth from a pair (new, anchor): its own view a, scaled so that view b has the anchor's depth."""
        step = _sampling(static.shape)
        expected = _depth_after(cam_from_world @ anchor.world_from_cam, anchor.points[step])
        measured = pair.points_b[..., 2][step]
        weight = (information(anchor.frame.confidence) * information(pair.conf_b) * anchor.static)[step]
        try:
            scale = pair_scale(expected, measured, weight)
        except ValueError:
            return _DepthView([])  # no parallax: this pair knows no depth
        residual = _relative_residual(scale * measured, expected, weight)
        return _DepthView([(scale * pair.points_a[..., 2], pair.conf_a)], residual=residual)

    def _from_anchor(self, pair, anchor, static, cam_from_world) -> _DepthView:
        """Depth from a pair (anchor, new): its view b, and the anchor's own depth carried to where b's pixels were."""
        frame, step = anchor.frame, _sampling(static.shape)
        new_from_anchor = cam_from_world @ anchor.world_from_cam
        in_new = _depth_after(new_from_anchor, anchor.points)
        carried, carried_confidence = carry(
            in_new,
            1.0 + CARRY_DECAY * (frame.confidence - 1.0),
            torch.isfinite(in_new) & (anchor.static > 0.5),
            pair.points_b,
            torch.from_numpy(frame.K),
        )
        weight = (information(frame.confidence) * information(pair.conf_a) * anchor.static)[step]
        expected, seen = frame.depth[step], pair.points_a[..., 2][step]
        estimates, residual = [], None
        try:
            scale = pair_scale(expected, seen, weight)
        except ValueError:
            pass  # no parallax: only the carried depth remains
        else:
            measured = _depth_after(new_from_anchor, scale * pair.points_b)
            residual = _relative_residual(scale * seen, expected, weight)
            estimates.append((measured, pair.conf_b))
            hidden = occluded(carried, measured, pair.conf_b, self.config.min_confidence)
            carried = torch.where(hidden, torch.full_like(carried, torch.nan), carried)
        carried = torch.where(static > 0.5, carried, torch.full_like(carried, torch.nan))
        return _DepthView([*estimates, (carried, carried_confidence)], carried, residual)

    # -- frames without a place ------------------------------------------------------------------------------------

    def _lost(self, index, K, shape, device, reason: str) -> AlignedFrame:
        if not any(self._anchors[i].frame.state in _PLACED for i in list(self._anchors)[-self._memory + 1 :]):
            self._started = False  # nothing left to attach to: a new piece of world starts where the last pose was
        return self._blank(index, self._pose, K, shape, device, reason, TrackingState.LOST)

    def _blank(
        self, index, pose, K, shape, device, reason: str, state: TrackingState = TrackingState.INITIALISING
    ) -> AlignedFrame:
        nothing = torch.full(shape, torch.nan, device=device)
        covariance = np.eye(6) * (PRIOR_SIGMA**2 if state is TrackingState.LOST else 0.0)
        return AlignedFrame(
            index, pose.copy(), covariance, K, nothing, torch.ones(shape, device=device), 0.0, state, reason
        )

    def _remember(self, anchor: _Anchor) -> None:
        self._anchors[anchor.frame.index] = anchor
        while len(self._anchors) > self._memory:
            self._anchors.popitem(last=False)


_PLACED = (TrackingState.TRACKING, TrackingState.DEGRADED)


def _sampling(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Index of a regular sub-grid of about SAMPLES pixels of an (h, w) map."""
    stride = max(1, round((shape[0] * shape[1] / SAMPLES) ** 0.5))
    return (slice(stride // 2, None, stride),) * 2


def _pixel_noise(pair: PairGeometry, K: torch.Tensor, step: tuple[slice, slice]) -> float:
    """How far, in pixels, the backbone puts a's points from a's own pixels: its error across the rays (median)."""
    truth = pixel_grid(*pair.points_a.shape[:2], device=pair.points_a.device)[step]
    return float((project(pair.points_a[step], K) - truth).norm(dim=-1).median())


def _depth_after(other_from_cam: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """z of (..., 3) points after a rigid transform."""
    row = other_from_cam[2].to(points)
    return points @ row[:3] + row[3]


def _hold_scale(depth: torch.Tensor, carried: list[torch.Tensor]) -> torch.Tensor:
    """`depth` with its median ratio to the anchors' own depth made one.

    Pairs have no scale of their own, and averaging noisy depth is biased by a fraction of a percent: without this the
    world would shrink frame by frame.
    """
    step = _sampling(depth.shape)
    ratio = torch.cat([(old / depth)[step].flatten() for old in carried]) if carried else depth.new_empty(0)
    ratio = ratio[torch.isfinite(ratio)]
    return depth * ratio.median() if ratio.numel() else depth


def _relative_residual(estimate: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor) -> float:
    good = (weight > 0) & torch.isfinite(reference) & (reference > 0)
    return float(((estimate - reference).abs() / reference)[good].median()) if bool(good.any()) else 0.0


def _covariance(registration: Registration) -> np.ndarray:
    """(6, 6) pose covariance in world axes from the information of the camera-frame twist."""
    information_ = registration.information.cpu().numpy()
    twist = np.linalg.pinv(information_)
    rotation = registration.world_from_cam.cpu().numpy()[:3, :3]
    block = np.zeros((6, 6))
    block[:3, :3] = block[3:, 3:] = rotation
    return block @ twist @ block.T
