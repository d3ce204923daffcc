"""The real-time alignment: a new frame is attached to the existing world; nothing earlier is computed again.

The first pair with parallax fixes the world: its frame is the origin and its median depth the unit (unless the backbone
is metric). After that a new frame t is placed by reprojection: pair (t, k) says where the pixels of an anchor k appear
in t, the world says where their points are. Its depth is then fused from the pairs, each brought to the world's scale
by the median depth ratio with its anchor, and from the anchors' own depth carried along. The scale is held by that
carried depth: pairs have none of their own, and every frame's depth keeps a median ratio of one to its anchors'.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from easi3r_ros.core.alignment.depth_fusion import AnchoredPair, NewFrame, depth_of_frame
from easi3r_ros.core.alignment.placement import (
    Anchor,
    Samples,
    pair_pose,
    place,
    take_samples,
    unknown_covariance,
    world_covariance,
)
from easi3r_ros.core.config import AlignmentConfig
from easi3r_ros.core.engine import Parcel
from easi3r_ros.core.geometry import depth_after, focal_of_pointmap, intrinsics, invert_se3
from easi3r_ros.core.types import AlignedFrame, PairGeometry, TrackingState

PARALLAX_SHARE = 0.15  # share of confident pixels from which a pair may fix the world
LOST_INLIERS, WEAK_INLIERS = 0.3, 0.7  # weighted share of points that reproject within the inlier threshold


def thin(values: torch.Tensor, stride: int) -> torch.Tensor:
    """(h, w, ...) -> (h // stride, w // stride, ...): pixel i of the thin map is pixel stride * i + stride // 2."""
    step = slice(stride // 2, None, stride)
    height, width = values.shape[0] // stride, values.shape[1] // stride
    return values[step, step][:height, :width]


def thin_pair(pair: PairGeometry, stride: int) -> PairGeometry:
    names = ("points_a", "points_b", "conf_a", "conf_b")
    return replace(pair, **{name: thin(getattr(pair, name), stride) for name in names})


def thin_intrinsics(K: np.ndarray, stride: int) -> np.ndarray:
    """(3, 3) K in pixels of the image -> of the thin maps."""
    out = K.copy()
    out[:2, 2] -= stride // 2
    out[:2] /= stride
    return out


def expand(aligned: AlignedFrame, stride: int, shape: tuple[int, int], K: np.ndarray) -> AlignedFrame:
    """A frame aligned on thin maps, at full size (h, w): every pixel has the value of the nearest thin one."""
    if stride == 1:
        return aligned
    rows, columns = (
        torch.clamp(torch.arange(full, device=aligned.depth.device) // stride, max=size - 1)
        for full, size in zip(shape, aligned.depth.shape, strict=True)
    )
    index = rows[:, None], columns[None]
    return replace(aligned, K=K, depth=aligned.depth[index], confidence=aligned.confidence[index])


def _focals(index: int, pairs: Sequence[PairGeometry]) -> list[torch.Tensor]:
    """() focal length, pixels of the maps, of every pair whose view a is frame `index`."""
    own = [pair.points_a for pair in pairs if pair.a == index]
    return [focal_of_pointmap(points, (points.shape[1] / 2, points.shape[0] / 2)) for points in own]


class IncrementalAligner:
    """Poses and depth of a stream of frames. Remembers `memory` frames, whatever the length of the stream."""

    def __init__(self, config: AlignmentConfig, memory: int, metric: bool = False, stride: int = 1):
        """metric: pairs are in metres. stride: depth is kept for every n-th pixel, see `thinning`."""
        self.config = config
        self._stride = stride
        self._memory = memory
        self._metric = metric
        self.reset()

    def reset(self) -> None:
        """Start a new world at the next frame."""
        self._anchors: OrderedDict[int, Anchor] = OrderedDict()
        self._pose = np.eye(4)  # world_from_cam of the newest frame
        self._focal: float | None = None
        self._focal_frames = 0
        self._started = False
        # World units, () on the maps' device; a new world takes it over, so that the scale does not jump.
        self._typical_depth: float | torch.Tensor = 1.0
        self._world = 0  # number of the present one

    def begin_again(self, zoom: float) -> None:
        """A new world at the last known pose, with images of another size: `zoom` times as many pixels a side."""
        self._anchors.clear()
        self._focal = None if self._focal is None else self._focal * zoom
        if self._started:
            self._started = False
            self._world += 1

    def update(
        self,
        index: int,
        pairs: Sequence[PairGeometry],
        masks: Mapping[int, torch.Tensor],
        K: np.ndarray | None,
        shape: tuple[int, int],
        parcel: Parcel | None = None,
    ) -> AlignedFrame:
        """Place frame `index` in the world.

        pairs: pairs between this frame and earlier ones, both orders; masks: frame index -> (h, w) bool, True on
        movers; K: (3, 3) intrinsics at network size, None if unknown (then one shared focal length is estimated);
        shape: (h, w). parcel: what else is to go to the host with the samples.
        """
        full_shape = shape
        focals = [] if K is not None else _focals(index, pairs)
        shape = shape[0] // self._stride, shape[1] // self._stride
        pairs = [thin_pair(pair, self._stride) for pair in pairs]
        masks = {frame: thin(mask, self._stride) for frame, mask in masks.items()}
        if pairs:
            self._follow(pairs[0].points_a.device)
        self._correct_anchors(masks)
        static = self._static_weight(masks.get(index), shape, pairs)
        # One copy to the host; everything dense stays where it is.
        met = {frame: self._anchors[frame] for pair in pairs for frame in pair.edge if frame in self._anchors}
        strength = [] if self._started else self._strengths(pairs)
        samples = take_samples(pairs, met, [*focals, *strength], parcel)
        full_K = self._intrinsics(samples.extra[: len(focals)], full_shape) if K is None else K
        K = thin_intrinsics(full_K, self._stride)
        if self._started:
            aligned = self._track(index, pairs, samples, static, K, shape)
        else:
            aligned = self._initialise(index, pairs, samples, static, K, shape)
        self._remember(Anchor(aligned, static, known=aligned.state.has_pose))
        self._pose = aligned.world_from_cam
        return expand(aligned, self._stride, full_shape, full_K)

    def leave_out(
        self, index: int, reason: str, K: np.ndarray | None, shape: tuple[int, int], shows_another_scene: bool = False
    ) -> AlignedFrame:
        """Frame `index` has no place, for a reason found in its image. K, shape: as `update`.

        shows_another_scene: where one such frame follows the other, nothing is left to attach to in the end, and a new
        world starts. An image that shows nothing is forgotten: however many there are, the world waits.
        """
        K = self._intrinsics([], shape) if K is None else K
        if not self._started:
            return self._blank(index, self._pose, K, shape, "cpu", reason)
        if not shows_another_scene:
            return self._blank(index, self._pose, K, shape, "cpu", reason, TrackingState.LOST)
        thin_K, thin_shape = thin_intrinsics(K, self._stride), (shape[0] // self._stride, shape[1] // self._stride)
        aligned = self._lost(index, thin_K, thin_shape, "cpu", reason)
        self._remember(Anchor(aligned, torch.ones(thin_shape), known=False))
        return expand(aligned, self._stride, shape, K)

    # -- intrinsics and weights ------------------------------------------------------------------------------------

    def _intrinsics(self, focals: Sequence[float], shape: tuple[int, int]) -> np.ndarray:
        """(3, 3) with a running mean of the frames' focal lengths. focals: as the newest frame's pairs have it."""
        size = (shape[1], shape[0])
        if focals:
            estimate = float(np.median(focals))
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

    def _follow(self, device: torch.device) -> None:
        """Bring what is remembered to where the pairs are: the first frame came before there was any."""
        for index, anchor in self._anchors.items():
            if anchor.static.device != device:
                maps = {name: getattr(anchor.frame, name).to(device) for name in ("depth", "confidence")}
                self._anchors[index] = Anchor(replace(anchor.frame, **maps), anchor.static.to(device), anchor.known)

    def _correct_anchors(self, masks: Mapping[int, torch.Tensor]) -> None:
        """Masks of earlier frames improve while their pairs come in."""
        if self.config.static_weighting:
            for index in self._anchors.keys() & masks.keys():
                self._anchors[index].static = 1.0 - masks[index].to(self._anchors[index].static)

    # -- the first frames ------------------------------------------------------------------------------------------

    def _strengths(self, pairs: Sequence[PairGeometry]) -> list[torch.Tensor]:
        """Per pair, two numbers: mean confidence of a, and share of b's pixels that are confident."""
        return [
            number
            for pair in pairs
            for number in (pair.conf_a.mean(), (pair.conf_b >= self.config.min_confidence).float().mean())
        ]

    def _initialise(self, index, pairs, samples: Samples, static, K, shape) -> AlignedFrame:
        """Rotation only, until a pair has parallax; that pair then fixes origin and unit."""
        strengths = samples.extra[len(samples.extra) - 2 * len(pairs) :]
        own = [i for i, pair in enumerate(pairs) if pair.a == index]
        best = max(own, key=lambda i: strengths[2 * i], default=None)
        if best is None or pairs[best].b not in self._anchors:
            return self._blank(index, self._pose, K, shape, static.device, "first frame")
        strongest, confident = pairs[best], strengths[2 * best + 1]
        anchor = self._anchors[strongest.b]
        try:
            relative = pair_pose(samples.pairs[best], samples.anchors[strongest.b].static, K)
        except ValueError as error:
            return self._blank(index, self._pose, K, shape, static.device, str(error))
        if confident < PARALLAX_SHARE:
            rotated = anchor.frame.world_from_cam.copy()
            rotated[:3, :3] = rotated[:3, :3] @ relative[:3, :3].cpu().numpy()
            return self._blank(index, rotated, K, shape, static.device, "not enough parallax yet: move the camera")
        self._found_world(strongest, anchor, relative, K)
        self._started = True
        known = {frame: self._anchors[frame] for frame in samples.anchors}
        return self._track(index, pairs, take_samples(pairs, known, (), Parcel("founding")), static, K, shape)

    def _found_world(self, pair: PairGeometry, anchor: Anchor, b_from_a: torch.Tensor, K: np.ndarray) -> None:
        """Give the anchor (view b of the pair) its depth, and the world its unit."""
        depth = depth_after(b_from_a, pair.points_b)
        confident = pair.conf_b >= self.config.min_confidence
        unit = 1.0 if self._metric else torch.where(confident, depth, torch.nan).nanmedian() / self._typical_depth
        measured = replace(anchor.frame, K=K, depth=depth / unit, confidence=pair.conf_b)
        self._anchors[measured.index] = Anchor(measured, anchor.static, known=True)

    # -- tracking --------------------------------------------------------------------------------------------------

    def _track(self, index, pairs, samples: Samples, static, K, shape) -> AlignedFrame:
        anchored = [
            AnchoredPair(pair, self._anchors[other], sample, samples.anchors[other])
            for pair, sample in zip(pairs, samples.pairs, strict=True)
            if (other := pair.b if pair.a == index else pair.a) in self._anchors and self._anchors[other].known
        ]
        try:
            seen = [(item.sample, item.anchor_sample) for item in anchored if item.pair.a == index]
            registration = place(seen, K, self._pose, self.config.iterations)
        except ValueError as error:
            return self._lost(index, K, shape, static.device, str(error))
        if registration.inliers < LOST_INLIERS:
            reason = f"only {registration.inliers:.0%} of the static points are where the world predicts them"
            return self._lost(index, K, shape, static.device, reason)
        new = NewFrame(index, invert_se3(registration.world_from_cam), static, self.config.min_confidence)
        depth, confidence, residual = depth_of_frame(new, anchored)
        typical = depth.nanmedian()
        self._typical_depth = torch.where(typical > 0, typical, self._typical_depth)  # NaN: nothing static in sight
        weak = registration.inliers < WEAK_INLIERS
        return AlignedFrame(
            index=index,
            world_from_cam=registration.world_from_cam.numpy(),
            covariance=world_covariance(registration.information, registration.world_from_cam),
            K=K,
            depth=depth,
            confidence=confidence,
            residual=residual,
            state=TrackingState.DEGRADED if weak else TrackingState.TRACKING,
            reason=f"{registration.inliers:.0%} of the static points agree with the pose" if weak else "",
            world=self._world,
        )

    # -- frames without a place ------------------------------------------------------------------------------------

    def _lost(self, index, K, shape, device, reason: str) -> AlignedFrame:
        if not any(self._anchors[i].frame.state.has_pose for i in list(self._anchors)[-self._memory + 1 :]):
            self._started = False  # nothing left to attach to: a new world starts where the last pose was
            self._world += 1
        return self._blank(index, self._pose, K, shape, device, reason, TrackingState.LOST)

    def _blank(
        self, index, pose, K, shape, device, reason: str, state: TrackingState = TrackingState.INITIALISING
    ) -> AlignedFrame:
        return AlignedFrame(
            index=index,
            world_from_cam=pose.copy(),
            covariance=unknown_covariance(),
            K=K,
            depth=torch.full(shape, torch.nan, device=device),
            confidence=torch.ones(shape, device=device),
            residual=float("nan"),
            state=state,
            reason=reason,
            world=self._world,
        )

    def _remember(self, anchor: Anchor) -> None:
        self._anchors[anchor.frame.index] = anchor
        while len(self._anchors) > self._memory:
            self._anchors.popitem(last=False)
