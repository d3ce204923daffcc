"""From a camera frame to everything known about it. The only module that knows the order of the stages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch

from easi3r_ros.core.alignment.incremental import IncrementalAligner
from easi3r_ros.core.alignment.whole import PairJournal
from easi3r_ros.core.backbone import Backbone, build_backbone
from easi3r_ros.core.clouds import standing_depth
from easi3r_ros.core.config import CloudConfig, PipelineConfig
from easi3r_ros.core.engine import fetch, pairs_on_host
from easi3r_ros.core.motion import MotionCue, MotionMeter, build_cue
from easi3r_ros.core.out_of_memory import ADVICE, OutOfMemory, attempt, release_unused
from easi3r_ros.core.preprocess import camera_intrinsics, plan, prepare, seen_share, to_camera
from easi3r_ros.core.types import (
    AlignedFrame,
    Deferred,
    Features,
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


USUAL_SIZES = ((1920, 1080), (640, 480))  # (W, H) of cameras; after resizing all that counts is the shape


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
        self._warm: set[tuple[int, int]] = set()  # (h, w) of network images
        self.stopwatch = StopWatch

    def warm_up(self, camera_sizes: Sequence[tuple[int, int]] = USUAL_SIZES) -> None:
        """Do before the first frame what it would have to wait for; seconds on a GPU, nothing on a CPU.

        camera_sizes: (W, H) of the images to come. For any other shape it happens when its first image comes, before
        that is answered, and never later in a stream. Raises FloatingPointError if the network's answers are no
        numbers.
        """
        for size in camera_sizes:
            transform = plan(size, self.backbone.input_spec, self._long_side)
            self._warm_up(transform.size[::-1])

    def _warm_up(self, size: tuple[int, int]) -> None:
        """size: (h, w) of the network image."""
        if size in self._warm or not self.backbone.gains_from_warm_up:
            return
        self._warm.add(size)
        count = 2 * min(len(self._partners), self._window.size - 1)
        second_pass = self.config.motion.second_pass

        def work() -> bool:
            self.backbone.warm_up(size, count, second_pass)
            return True

        if attempt(work) is None:  # a frame that finds as little knows how to do with less
            release_unused()
            log.warning("out of memory while warming up for images of %d x %d pixels", size[1], size[0])

    @property
    def _long_side(self) -> int:
        return self.config.preprocess.long_side or self.backbone.input_spec.long_side

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
        self._cue.reconfigure(config.motion)
        self._aligner.config = config.alignment
        self.config = config

    @torch.inference_mode()
    def push(self, frame: Frame) -> FrameResult:
        """Everything known about `frame` now.

        Raises FrameSizeChanged, ValueError for an unusable image, and OutOfMemory.
        """
        self._check_size(frame)
        watch = self.stopwatch()
        with watch("preprocess"):
            image = prepare(frame, self.backbone.input_spec, self.config.preprocess)
        self._warm_up(image.image.shape[:2])
        with watch("encode"):
            self._window.add(self._encode(image))
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
            geometry = self._pointmaps(answers)
        with watch("alignment"):
            aligned = self._aligner.update(frame.index, geometry, masks, image.K, image.image.shape[:2])
        self._take_note(aligned)
        if self._journal is not None:
            with watch("journal"):
                self._journal.add(geometry, masks, aligned, focal_known=image.K is not None)
        with watch("output"):
            return self._result(image, motion.get(frame.index), aligned, watch)

    def _encode(self, image: NetworkInput) -> Features:
        """Raises OutOfMemory if there is too little even after everything unused was given back."""
        encode = partial(self.backbone.encode, image)
        features = attempt(encode)
        if features is None:
            log.warning("out of memory while encoding an image: unused memory is given back, and it is tried once more")
            release_unused()
            features = attempt(encode)
        if features is None:
            height, width = image.image.shape[:2]
            raise OutOfMemory(f"there is too little memory to encode an image of {width} x {height} pixels: {ADVICE}")
        return features

    def _decode(
        self, masks: dict[int, torch.Tensor] | None = None, earlier: Sequence[PairAnswer] = ()
    ) -> Sequence[PairAnswer]:
        """The newest frame's pairs, see `Backbone.attend`.

        Where memory runs out, fewer are decoded at once, and then fewer of them decoded at all, from then on. Raises
        OutOfMemory if nothing is left to be saved.
        """
        usual = self._partners is self.backbone.default_partners
        frames = tuple(self._window.features.values())
        pairs = self._window.new_pairs(self.backbone.partners_after(frames) if usual else self._partners)
        if not pairs:
            return []
        while (answers := attempt(partial(self.backbone.attend, pairs, masks, earlier))) is None:
            release_unused()
            if not self._decode_fewer_at_once():
                pairs = self._fewer_pairs(pairs)
        return answers

    def _pointmaps(self, answers: Sequence[PairAnswer]) -> list[PairGeometry]:
        """The pairs complete, see `Backbone.pointmaps`. Raises OutOfMemory as `_decode`."""
        while (geometry := attempt(partial(self.backbone.pointmaps, answers))) is None:
            release_unused()
            if not self._decode_fewer_at_once():
                raise OutOfMemory(f"there is too little memory for the pointmaps of one pair of frames: {ADVICE}")
        return geometry

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
            made = self._pointmaps([answer for answer in answers if answer.edge in measured])
            told = self._meter.complete(self._window.features, with_pointmaps(answers, pairs_on_host(made)), masks)
            evidence = {answer.edge: answer.evidence for answer in told}
            answers = [replace(a, evidence=evidence[a.edge]) for a in with_pointmaps(answers, made)]
        self._window.record(answers)
        return answers, self._cue.estimate(self._window.features, self._window.evidence)

    def _build_cue(self, config: PipelineConfig) -> MotionCue:
        return build_cue(config.motion, self.backbone.has_attention)

    def _decode_fewer_at_once(self) -> bool:
        """Whether that is possible. It costs time alone."""
        count = self.backbone.decode_fewer_at_once()
        if count is not None:
            log.warning("out of memory: pairs are decoded %d at a time from now on", count)
        return count is not None

    def _fewer_pairs(self, pairs: Sequence[tuple[Features, Features]]) -> list[tuple[Features, Features]]:
        """Less than `pairs` of the newest frame, and of every later one. Raises OutOfMemory if there cannot be less."""
        partners, fewer = self._partners, list(pairs)
        fewest = 2 if self.backbone.has_attention else 1  # statistics over pairs need two partners (METHOD 3)
        while len(partners) > fewest and len(fewer) == len(pairs):
            partners = partners.first(max(fewest, len(partners) // 2))
            fewer = self._window.new_pairs(partners)
        if len(fewer) == len(pairs):  # the same again would fail again
            raise OutOfMemory(
                f"there is too little memory for {len(pairs)} pairs of frames, and no less will do: {ADVICE}"
            )
        self._partners = partners
        log.warning("out of memory: each frame is paired with %d others only from now on", len(partners))
        return fewer

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
        maps = CameraMaps(image, motion, aligned, self.config.clouds, watch)
        return FrameResult(
            frame=image.frame,
            mask=Deferred(maps.mask),
            probability=Deferred(maps.probability),
            depth=Deferred(maps.depth),
            confidence=Deferred(maps.confidence),
            K=image.frame.K if image.frame.K is not None else camera_intrinsics(aligned.K, image.transform),
            world_from_cam=aligned.world_from_cam,
            covariance=aligned.covariance,
            state=aligned.state,
            reason=aligned.reason,
            world=aligned.world,
            metric=self.backbone.metric,
            residual=aligned.residual,
            dynamic_fraction=0.0 if motion is None else seen_share(image.transform) * float(motion.mask.float().mean()),
            window=self._window.indices,
            latency_ms=watch.milliseconds,
            evidence=Deferred(maps.evidence),
        )


class CameraMaps:
    """What is known about the pixels of one frame, brought to the camera's size on demand."""

    def __init__(
        self,
        image: NetworkInput,
        motion: MotionEstimate | None,
        aligned: AlignedFrame,
        config: CloudConfig,
        watch: StopWatch,
    ):
        """motion: None: nothing is known. watch: every call counts as "output"."""
        self._transform, self._shape = image.transform, image.image.shape[:2]
        self._motion, self._aligned, self._config, self._watch = motion, aligned, config, watch

    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        with self._watch("output"):
            return to_camera(self._on_host.mask, self._transform, fill=0.0, smooth=True) > 0.5

    def probability(self) -> np.ndarray:
        """(H, W) float32; 0 in what the crop removed."""
        with self._watch("output"):
            return to_camera(self._on_host.probability, self._transform, fill=0.0, smooth=True)

    def depth(self) -> np.ndarray:
        """(H, W) float32; NaN in what the crop removed."""
        with self._watch("output"):
            return to_camera(self._with_standing[0], self._transform, fill=np.nan, smooth=False)

    def confidence(self) -> np.ndarray:
        """(H, W) float32; 1 in what the crop removed."""
        with self._watch("output"):
            return to_camera(self._with_standing[1], self._transform, fill=1.0, smooth=False)

    def evidence(self) -> dict[str, np.ndarray]:
        """By cue, at the backbone's size."""
        maps = {} if self._motion is None else self._motion.evidence
        with self._watch("output"):
            return {name: _numpy(values) for name, values in maps.items()}

    @cached_property
    def _on_host(self) -> NetworkMaps:
        """In one copy; where motion was found on the host, it does not cross again."""
        aligned, motion = self._aligned, self._motion
        groups = [[aligned.depth, aligned.confidence]]
        if motion is not None and motion.mask.device == aligned.depth.device:
            groups[0] += [motion.probability, motion.mask.float()]
        elif motion is not None:
            groups.append([motion.probability, motion.mask.float()])
        maps = [single for group in groups for single in fetch(torch.stack(group)).numpy()]
        return NetworkMaps(*maps, *[np.zeros(self._shape, np.float32)] * (4 - len(maps)))

    @cached_property
    def _with_standing(self) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) depth and confidence, with movers put where they stand if that is wanted."""
        maps = self._on_host
        if self._config.movers != "standing" or self._aligned.state is TrackingState.INITIALISING:
            return maps.depth, maps.confidence
        return standing_depth(maps.depth, maps.confidence, maps.mask > 0.5, self._config.min_confidence)


class NetworkMaps(NamedTuple):
    """(h, w) float32 each, at the size of the network image."""

    depth: np.ndarray
    confidence: np.ndarray
    probability: np.ndarray
    mask: np.ndarray


class StopWatch:
    """Wall time per named stage, summed up."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + (time.perf_counter() - start) * 1e3


def with_pointmaps(answers: Sequence[PairAnswer], made: Sequence[PairGeometry]) -> list[PairAnswer]:
    """The answers, in their order, where those of which the pointmaps were made take the place of the others."""
    complete = {pair.edge: pair for pair in made}
    return [complete.get(answer.edge, answer) for answer in answers]


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
