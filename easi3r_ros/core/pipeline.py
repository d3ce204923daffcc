"""From a camera frame to everything known about it. The only module that knows the order of the stages."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from easi3r_ros.core.alignment.incremental import IncrementalAligner
from easi3r_ros.core.alignment.whole import PairJournal
from easi3r_ros.core.backbone import Backbone, build_backbone
from easi3r_ros.core.clouds import standing_depth
from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.motion import MotionCue, MotionMeter, build_cue
from easi3r_ros.core.preprocess import camera_intrinsics, prepare, to_camera
from easi3r_ros.core.types import (
    AlignedFrame,
    Frame,
    FrameResult,
    MotionEstimate,
    NetworkInput,
    PairGeometry,
    Partners,
    TrackingState,
)
from easi3r_ros.core.window import FrameWindow

log = logging.getLogger(__name__)


class FrameSizeChanged(ValueError):
    """The camera's image size changed in mid-stream; `Pipeline.reset` and push the frame again."""


class Pipeline:
    """Frames in, one result per frame out, in order, from the first frame on. Not thread-safe."""

    def __init__(self, config: PipelineConfig, backbone: Backbone | None = None, journal: PairJournal | None = None):
        """journal: keeps pairs for `align_globally`. Raises ConfigError or CheckpointError (see `build_backbone`)."""
        self.config = config
        self.backbone = backbone or build_backbone(config.backbone)
        self._cue = self._build_cue(config)
        self._meter = MotionMeter()
        self._partners = Partners(config.window.offsets) if config.window.offsets else self.backbone.default_partners
        self._window = FrameWindow(max((config.window.size, *(step + 1 for step in self._partners.steps))))
        backbone = self.backbone
        self._aligner = IncrementalAligner(config.alignment, self._window.size, backbone.metric, backbone.detail)
        self._journal = journal
        self._size: tuple[int, ...] | None = None

    def reset(self) -> None:
        """Forget all frames and start a new world."""
        self._window.clear()
        self._cue.reset()
        self._meter.reset()
        self._aligner.reset()
        self._size = None

    def reconfigure(self, config: PipelineConfig) -> None:
        """Apply changed live settings from the next frame on; the world goes on. Others need a new Pipeline."""
        self._cue.reconfigure(config.motion)
        self._aligner.config = config.alignment
        self.config = config

    @torch.inference_mode()
    def push(self, frame: Frame) -> FrameResult:
        """Everything known about `frame` now. Raises FrameSizeChanged, and ValueError for an unusable image."""
        self._check_size(frame)
        watch = StopWatch()
        with watch("preprocess"):
            image = prepare(frame, self.backbone.input_spec, self.config.preprocess)
        with watch("encode"):
            features = self.backbone.encode(image)
            self._window.add(features)
        with watch("decode"):
            geometry = self._decode()
        with watch("motion"):
            motion = self._find_motion(geometry)
        masks = {index: estimate.mask for index, estimate in motion.items()}
        if self.config.motion.second_pass and any(bool(mask.any()) for mask in masks.values()):
            with watch("decode_masked"):
                geometry = self._decode(masks)
            with watch("motion_masked"):
                motion = self._find_motion(geometry, masks)
            masks = {index: estimate.mask for index, estimate in motion.items()}
        with watch("alignment"):
            aligned = self._aligner.update(frame.index, geometry, masks, image.K, image.image.shape[:2])
        if aligned.state is TrackingState.LOST:
            self._window.mark_lost(frame.index)
        if self._journal is not None:
            with watch("journal"):
                self._journal.add(geometry, masks, aligned, focal_known=image.K is not None)
        with watch("output"):
            return self._result(image, motion.get(frame.index), aligned, watch)

    def _decode(self, masks: dict[int, torch.Tensor] | None = None) -> list[PairGeometry]:
        """The newest frame's pairs. A GPU that runs out of memory gets fewer of them from then on."""
        while True:
            pairs = self._window.new_pairs(self._partners)
            try:
                geometry = self.backbone.decode(pairs, masks) if pairs else []
            except torch.cuda.OutOfMemoryError:
                if not self._use_fewer_pairs():
                    raise
                continue
            return geometry

    def _find_motion(
        self, geometry: list[PairGeometry], masks: dict[int, torch.Tensor] | None = None
    ) -> dict[int, MotionEstimate]:
        """In the frames of the window, by index, now that the newest frame's pairs are decoded."""
        if self._cue.needs_motion:
            geometry = self._meter.complete(self._window.features, geometry, masks)
        self._window.record(geometry)
        return self._cue.estimate(self._window.features, self._window.evidence)

    def _build_cue(self, config: PipelineConfig) -> MotionCue:
        return build_cue(config.motion, self.backbone.has_attention, self.backbone.has_motion_head)

    def _use_fewer_pairs(self) -> bool:
        """Whether there was something left to save."""
        fewest = 2 if self.backbone.has_attention else 1  # statistics over pairs need two partners (METHOD 3)
        if len(self._partners) <= fewest:
            return False
        self._partners = self._partners.first(max(fewest, len(self._partners) // 2))
        torch.cuda.empty_cache()
        log.warning(
            "the GPU is out of memory: each frame is paired with %d others only from now on", len(self._partners)
        )
        return True

    def _check_size(self, frame: Frame) -> None:
        size = frame.image.shape
        if frame.image.ndim != 3 or size[2] != 3 or frame.image.dtype != np.uint8:
            raise ValueError(f"Frame.image must be (H, W, 3) uint8 RGB, got {size} {frame.image.dtype}")
        if self._size not in (None, size):
            raise FrameSizeChanged(f"image size changed from {_wxh(self._size)} to {_wxh(size)}")
        self._size = size

    def _result(
        self, image: NetworkInput, motion: MotionEstimate | None, aligned: AlignedFrame, watch: StopWatch
    ) -> FrameResult:
        transform, shape = image.transform, image.image.shape[:2]
        nothing = np.zeros(shape, np.float32)
        probability = nothing if motion is None else _numpy(motion.probability)
        network_mask = nothing if motion is None else _numpy(motion.mask.float())
        depth, confidence = _numpy(aligned.depth), _numpy(aligned.confidence)
        if self.config.clouds.movers == "standing" and aligned.state is not TrackingState.INITIALISING:
            min_confidence = self.config.clouds.min_confidence
            depth, confidence = standing_depth(depth, confidence, network_mask > 0.5, min_confidence)
        mask = to_camera(network_mask, transform, fill=0.0, smooth=True) > 0.5
        return FrameResult(
            frame=image.frame,
            mask=mask,
            probability=to_camera(probability, transform, fill=0.0, smooth=True),
            depth=to_camera(depth, transform, fill=np.nan, smooth=False),
            confidence=to_camera(confidence, transform, fill=1.0, smooth=False),
            K=image.frame.K if image.frame.K is not None else camera_intrinsics(aligned.K, transform),
            world_from_cam=aligned.world_from_cam,
            covariance=aligned.covariance,
            state=aligned.state,
            reason=aligned.reason,
            metric=self.backbone.metric,
            residual=aligned.residual,
            dynamic_fraction=float(mask.mean()),
            window=self._window.indices,
            latency_ms=watch.milliseconds,
            evidence={} if motion is None else {name: _numpy(value) for name, value in motion.evidence.items()},
        )


class StopWatch:
    """Wall time per named stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds[stage] = (time.perf_counter() - start) * 1e3


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
