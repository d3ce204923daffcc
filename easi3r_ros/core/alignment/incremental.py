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

from easi3r_ros.core.alignment.depth_fusion import NewFrame, depth_of_frame
from easi3r_ros.core.alignment.placement import Anchor, pair_pose, place, unknown_covariance, world_covariance
from easi3r_ros.core.config import AlignmentConfig
from easi3r_ros.core.geometry import focal_from_pointmap, intrinsics, invert_se3, transform
from easi3r_ros.core.types import AlignedFrame, PairGeometry, TrackingState


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
    rows, columns = (
        torch.clamp(torch.arange(full) // stride, max=size - 1)
        for full, size in zip(shape, aligned.depth.shape, strict=True)
    )
    index = rows[:, None].to(aligned.depth.device), columns[None].to(aligned.depth.device)
    return replace(aligned, K=K, depth=aligned.depth[index], confidence=aligned.confidence[index])


PARALLAX_SHARE = 0.15  # share of confident pixels from which a pair may fix the world
LOST_INLIERS, WEAK_INLIERS = 0.3, 0.7  # weighted share of points that reproject within the inlier threshold


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
        self._world = 0  # number of the present one
        self._typical_depth = 1.0  # world units; a new world takes it over, so that the scale does not jump

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
        full_shape, full_K = shape, self._intrinsics(index, pairs, K, shape)
        shape = shape[0] // self._stride, shape[1] // self._stride
        K = thin_intrinsics(full_K, self._stride)
        pairs = [thin_pair(pair, self._stride) for pair in pairs]
        masks = {frame: thin(mask, self._stride) for frame, mask in masks.items()}
        self._correct_anchors(masks)
        static = self._static_weight(masks.get(index), shape, pairs)
        if self._started:
            aligned = self._track(index, pairs, static, K, shape)
        else:
            aligned = self._initialise(index, pairs, masks, static, K, shape)
        self._remember(Anchor(aligned, static))
        self._pose = aligned.world_from_cam
        return expand(aligned, self._stride, full_shape, full_K)

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

    def _correct_anchors(self, masks: Mapping[int, torch.Tensor]) -> None:
        """Masks of earlier frames improve while their pairs come in."""
        if self.config.static_weighting:
            for index in self._anchors.keys() & masks.keys():
                self._anchors[index].static = 1.0 - masks[index].to(self._anchors[index].static)

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
            relative = pair_pose(strongest, anchor.static, K)
        except ValueError as error:
            return self._blank(index, self._pose, K, shape, static.device, str(error))
        if confident < PARALLAX_SHARE:
            rotated = anchor.frame.world_from_cam.copy()
            rotated[:3, :3] = rotated[:3, :3] @ relative[:3, :3].cpu().numpy()
            return self._blank(index, rotated, K, shape, static.device, "not enough parallax yet: move the camera")
        self._found_world(strongest, anchor, relative, K)
        self._started = True
        return self._track(index, pairs, static, K, shape)

    def _found_world(self, pair: PairGeometry, anchor: Anchor, b_from_a: torch.Tensor, K: np.ndarray) -> None:
        """Give the anchor (view b of the pair) its depth, and the world its unit."""
        depth = transform(b_from_a.to(pair.points_b), pair.points_b)[..., 2]
        confident = pair.conf_b >= self.config.min_confidence
        unit = 1.0 if self._metric else float(depth[confident].median()) / self._typical_depth
        measured = replace(anchor.frame, K=K, depth=depth / unit, confidence=pair.conf_b)
        self._anchors[measured.index] = Anchor(measured, anchor.static)

    # -- tracking --------------------------------------------------------------------------------------------------

    def _track(self, index, pairs, static, K, shape) -> AlignedFrame:
        anchored = [(pair, self._anchor_of(pair, index)) for pair in pairs]
        anchored = [(pair, anchor) for pair, anchor in anchored if anchor is not None and anchor.known]
        try:
            seen = [(pair, anchor) for pair, anchor in anchored if pair.a == index]
            registration = place(seen, K, self._pose, self.config.iterations)
        except ValueError as error:
            return self._lost(index, K, shape, static.device, str(error))
        if registration.inliers < LOST_INLIERS:
            reason = f"only {registration.inliers:.0%} of the static points are where the world predicts them"
            return self._lost(index, K, shape, static.device, reason)
        new = NewFrame(index, invert_se3(registration.world_from_cam), static, self.config.min_confidence)
        depth, confidence, residual = depth_of_frame(new, anchored)
        typical = float(depth.nanmedian())
        self._typical_depth = typical if typical > 0 else self._typical_depth  # NaN: nothing static in sight
        weak = registration.inliers < WEAK_INLIERS
        return AlignedFrame(
            index=index,
            world_from_cam=registration.world_from_cam.cpu().numpy(),
            covariance=world_covariance(registration.information, registration.world_from_cam),
            K=K,
            depth=depth,
            confidence=confidence,
            residual=residual,
            state=TrackingState.DEGRADED if weak else TrackingState.TRACKING,
            reason=f"{registration.inliers:.0%} of the static points agree with the pose" if weak else "",
            world=self._world,
        )

    def _anchor_of(self, pair: PairGeometry, index: int) -> Anchor | None:
        return self._anchors.get(pair.b if pair.a == index else pair.a)

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
