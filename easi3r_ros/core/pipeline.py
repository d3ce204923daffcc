"""From a camera frame to everything known about it. The only module that knows the order of the stages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from easi3r_ros.core.alignment.incremental import IncrementalAligner
from easi3r_ros.core.alignment.whole import PairJournal
from easi3r_ros.core.backbone import Backbone, build_backbone
from easi3r_ros.core.clouds import standing_depth
from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.engine import masks_on_host, pairs_on_host
from easi3r_ros.core.motion import MotionCue, MotionMeter, build_cue
from easi3r_ros.core.preprocess import camera_intrinsics, prepare, to_camera
from easi3r_ros.core.types import (
    AlignedFrame,
    Frame,
    FrameResult,
    MotionEstimate,
    NetworkInput,
    PairAnswer,
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

    stopwatch: Callable[[], StopWatch]  # makes the one of each frame

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
        self._world = 0
        self._size: tuple[int, ...] | None = None
        self.stopwatch = StopWatch

    def reset(self) -> None:
        """Forget all frames and start a new world."""
        self._window.clear()
        self._cue.reset()
        self._meter.reset()
        self._aligner.reset()
        self._world = 0
        self._size = None

    def reconfigure(self, config: PipelineConfig) -> None:
        """Apply changed live settings from the next frame on; the world goes on. Others need a new Pipeline."""
        if config.motion != self.config.motion:
            self._cue = self._build_cue(config)
        self._aligner.config = config.alignment
        self.config = config

    @torch.inference_mode()
    def push(self, frame: Frame) -> FrameResult:
        """Everything known about `frame` now. Raises FrameSizeChanged, and ValueError for an unusable image."""
        self._check_size(frame)
        watch = self.stopwatch()
        with watch("preprocess"):
            image = prepare(frame, self.backbone.input_spec, self.config.preprocess)
        with watch("encode"):
            features = self.backbone.encode(image)
            self._window.add(features)
        with watch("decode"):
            first = self._decode()
        with watch("motion"):
            answers, motion = self._find_motion(first)
        masks = {index: estimate.mask for index, estimate in motion.items()}
        if self.config.motion.second_pass and masks:
            with watch("decode_masked"):
                again = self._decode(masks, first)
            if again is not first:
                with watch("motion_masked"):
                    answers, motion = self._find_motion(again, masks)
                masks = {index: estimate.mask for index, estimate in motion.items()}
        with watch("pointmaps"):
            geometry = pairs_on_host(self.backbone.pointmaps(answers))
            masks = masks_on_host(masks)
        with watch("alignment"):
            aligned = self._aligner.update(frame.index, geometry, masks, image.K, image.image.shape[:2])
        self._take_note(aligned)
        if self._journal is not None:
            with watch("journal"):
                self._journal.add(geometry, masks, aligned, focal_known=image.K is not None)
        with watch("output"):
            return self._result(image, motion.get(frame.index), aligned, watch)

    def _decode(
        self, masks: dict[int, torch.Tensor] | None = None, earlier: Sequence[PairAnswer] = ()
    ) -> Sequence[PairAnswer]:
        """The newest frame's pairs, see `Backbone.attend`. A GPU out of memory gets fewer of them from then on."""
        while True:
            pairs = self._window.new_pairs(self._partners)
            try:
                answers = self.backbone.attend(pairs, masks, earlier) if pairs else []
            except torch.cuda.OutOfMemoryError:
                if not self._use_fewer_pairs():
                    raise
                continue
            return answers

    def _take_note(self, aligned: AlignedFrame) -> None:
        """What a frame's place in the world means for those that follow."""
        if aligned.state is TrackingState.LOST:
            self._window.mark_lost(aligned.index)
        if aligned.world != self._world and aligned.state.has_pose:
            self._world = aligned.world
            log.warning(
                "nothing was left of the world to attach to: a new one starts at the last known pose, of which nobody "
                "knows how far the camera has moved since"
            )

    def _find_motion(
        self, answers: Sequence[PairAnswer], masks: dict[int, torch.Tensor] | None = None
    ) -> tuple[Sequence[PairAnswer], dict[int, MotionEstimate]]:
        """The pairs, with motion measured where the cue needs it, and the motion in the frames of the window, by index.

        Pointmaps are made for the pairs that are measured, and no others.
        """
        if self._cue.needs_motion:
            measured = self._meter.measurable(self._window.features, answers)
            made = pairs_on_host(self.backbone.pointmaps([answer for answer in answers if answer.edge in measured]))
            answers = self._meter.complete(self._window.features, with_pointmaps(answers, made), masks)
        self._window.record(answers)
        return answers, self._cue.estimate(self._window.features, self._window.evidence)

    def _build_cue(self, config: PipelineConfig) -> MotionCue:
        return build_cue(config.motion, self.backbone.has_attention)

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
            world=aligned.world,
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


def with_pointmaps(answers: Sequence[PairAnswer], made: Sequence[PairGeometry]) -> list[PairAnswer]:
    """The answers, in their order, where those of which the pointmaps were made take the place of the others."""
    complete = {pair.edge: pair for pair in made}
    return [complete.get(answer.edge, answer) for answer in answers]


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
