"""From a camera frame to everything known about it. The only module that knows the order of the stages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from easi3r_ros.core.alignment.incremental import IncrementalAligner
from easi3r_ros.core.alignment.whole import PairJournal
from easi3r_ros.core.backbone import Backbone, build_backbone
from easi3r_ros.core.budget import Effort, Level, Limits, decide, described, ladder
from easi3r_ros.core.camera_maps import CameraMaps, StopWatch
from easi3r_ros.core.config import PipelineConfig, PreprocessConfig
from easi3r_ros.core.engine import Landing, Parcel, memory_used_mb
from easi3r_ros.core.motion import MotionCue, MotionMeter, build_cue, carried_motion
from easi3r_ros.core.motion.masks import Masks, with_excluded
from easi3r_ros.core.motion.refiner import MaskRefiner
from easi3r_ros.core.motion.sam2_tracker import load_sam2
from easi3r_ros.core.out_of_memory import ADVICE, OutOfMemory, attempt, release_unused
from easi3r_ros.core.preprocess import camera_intrinsics, plan, prepare, seen_share
from easi3r_ros.core.sight import (
    UNRECOGNISED,
    doubted,
    is_same,
    recognised_share,
    why_blind,
)
from easi3r_ros.core.types import (
    AlignedFrame,
    Deferred,
    Edge,
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


FROZEN_SECONDS = 2.0  # so long a camera may give the same image without a word
USUAL_SIZES = ((1920, 1080), (640, 480))  # (W, H) of cameras; after resizing all that counts is the shape


SCALES = (1.0, 0.75, 0.5)  # of the long side of a network's image, where nothing else is left to be saved


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
        self._refiner = self._build_refiner(config)
        self._meter = MotionMeter()
        self._possible = Partners(config.window.offsets) if config.window.offsets else self.backbone.default_partners
        self._effort = Effort()
        self._window = FrameWindow(max((config.window.size, *(step + 1 for step in self._possible.steps))))
        backbone = self.backbone
        self._aligner = IncrementalAligner(config.alignment, self._window.size, backbone.metric, backbone.detail)
        self._journal = journal
        self._motion: Mapping[int, MotionEstimate] = {}  # in the frames of the window, as the last frame left it
        self._world = 0
        self._size: tuple[int, ...] | None = None
        self._last: Answer | None = None
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

        def work() -> bool:
            self.backbone.warm_up(size, count)
            return True

        if attempt(work) is None:  # a frame that finds as little knows how to do with less
            release_unused()
            log.warning("out of memory while warming up for images of %d x %d pixels", size[1], size[0])

    @property
    def _long_side(self) -> int:
        full = self.config.preprocess.long_side or self.backbone.input_spec.long_side
        multiple = self.backbone.input_spec.multiple
        return (
            max(2 * multiple, round(full * self._level.scale / multiple) * multiple) if self._level.scale < 1 else full
        )

    # -- budgets -----------------------------------------------------------------------------------------------------

    @property
    def _levels(self) -> tuple[Level, ...]:
        """From everything that was configured to the least that works here."""
        network = self.backbone.has_attention
        scales = SCALES if network and not self.backbone.input_spec.square else SCALES[:1]
        count = len(self._possible)
        return ladder(count, self.config.motion.passes, min(self._fewest, count), scales)

    @property
    def _level(self) -> Level:
        levels = self._levels
        return levels[min(self._effort.level, len(levels) - 1)]

    @property
    def _partners(self) -> Partners:
        frames, partners = tuple(self._window.features.values()), self._possible
        if frames and partners is self.backbone.default_partners:  # neither a user nor a lack of memory decides
            partners = self.backbone.partners_after(frames)
        return partners.first(self._level.partners)

    @property
    def _fewest(self) -> int:
        """Partners that are needed: statistics over pairs need two (METHOD 3)."""
        return 2 if self.backbone.has_attention else 1

    def _keep_budgets(self, milliseconds: float) -> None:
        """After a frame that took so long: what is done for the next one."""
        engine, levels, before = self.config.engine, self._levels, self._level
        if not (engine.deadline_ms or engine.memory_mb or self._effort.level):
            return
        used = memory_used_mb(self._device) if engine.memory_mb else 0.0
        limits = Limits(engine.deadline_ms, engine.memory_mb)
        effort = replace(self._effort, level=min(self._effort.level, len(levels) - 1))
        self._effort = decide(effort, levels, limits, milliseconds, used)
        if self._level == before:
            return
        less = self._effort.level > effort.level
        say = log.warning if less else log.info
        say("%s from now on: %s", "less is done" if less else "more is done", self._described_effort or "everything")
        if self._level.scale != before.scale:
            self._begin_again(self._level.scale / before.scale)

    @property
    def _described_effort(self) -> str:
        return described(self._level, self._levels[0], self._effort.cause)

    @property
    def _device(self) -> torch.device:
        features = list(self._window.features.values())
        return features[-1].tokens.device if features else torch.device("cpu")

    def _begin_again(self, zoom: float) -> None:
        """Images of two sizes cannot be paired, so a new world starts at the last known pose."""
        self._window.clear()
        self._cue.reset()
        self._meter.reset()
        self._aligner.begin_again(zoom)
        self._motion = {}

    def reset(self) -> None:
        """Forget all frames and start a new world."""
        self._window.clear()
        self._cue.reset()
        if self._refiner is not None:
            self._refiner.reset()
        self._meter.reset()
        self._aligner.reset()
        self._motion = {}
        self._world = 0
        self._size = None
        self._last = None

    def reconfigure(self, config: PipelineConfig) -> None:
        """Apply changed live settings from the next frame on; the world goes on. Others need a new Pipeline."""
        self._cue.reconfigure(config.motion)
        self._aligner.config = config.alignment
        self.config = config

    @torch.inference_mode()
    def push(self, frame: Frame) -> FrameResult:
        """Everything known about `frame` now.

        An image that repeats the last one gets its answer, and one that shows nothing is left out: neither becomes a
        frame of the window. Raises FrameSizeChanged, ValueError for an unusable image, and OutOfMemory.
        """
        self._check_size(frame)
        watch = self.stopwatch()
        begin = time.perf_counter()
        with watch("preprocess"):
            image = prepare(frame, self.backbone.input_spec, PreprocessConfig(long_side=self._long_side))
            # Enlarging makes noise coarse.
            blind = why_blind(min(frame.image, image.image, key=lambda pixels: pixels.size))
        if self._last is not None and is_same(image.image, self._last.image):
            return self._last.again(frame, watch)
        if blind:
            result = self._unseen(image, blind, watch)
        else:
            if self._refiner is not None:
                self._refiner.see(frame)
            result = self._seen(image, watch)
            self._keep_budgets((time.perf_counter() - begin) * 1e3)
            if self._refiner is not None:
                with watch("refine"):
                    result = self._refined(result)
        self._last = Answer(image.image, result)
        return result

    def _unseen(self, image: NetworkInput, reason: str, watch: StopWatch) -> FrameResult:
        """The answer for an image that shows nothing."""
        if self._last is None:
            self._encode(image)  # raises for images of a size that the backbone cannot take
        aligned = self._aligner.leave_out(image.frame.index, reason, image.K, image.image.shape[:2])
        return self._result(image, None, None, aligned, watch)

    def _seen(self, image: NetworkInput, watch: StopWatch) -> FrameResult:
        frame = image.frame
        self._warm_up(image.image.shape[:2])
        with watch("encode"):
            self._window.add(self._encode(image))
        self._find_flows()
        with watch("decode"):
            expected = self._expected_motion()
            first = self._decode(Masks(expected, self._new_edges()) if expected else None)
        with watch("motion"):
            answers, motion = self._find_motion(first, expected)
        masks = Masks(motion, self._new_edges())
        if self._level.passes == 2 and masks:
            with watch("decode_masked"):
                again = self._decode(masks, first)
            if again is not first:
                with watch("motion_masked"):
                    answers, motion = self._find_motion(again, motion, again=True)
                masks = Masks(motion, self._new_edges())
        with watch("pointmaps"):
            geometry = self._pointmaps(answers)
        recognised = recognised_share(frame.index, geometry, image.image)
        if recognised < UNRECOGNISED:
            reason = f"only {recognised:.0%} of the image is found again in those before: another scene, or a fast turn"
            shape = image.image.shape[:2]
            aligned = self._aligner.leave_out(frame.index, reason, image.K, shape, shows_another_scene=True)
            self._window.mark_lost(frame.index)
            return self._result(image, None, None, aligned, watch)
        with watch("alignment"):
            parcel = Parcel("samples")
            share = self._moving_share(image, masks, parcel)
            aligned = self._aligner.update(frame.index, geometry, masks, image.K, image.image.shape[:2], parcel)
        # Attention only ranks: what moves most is always much, and says nothing of how much it is.
        moving = float(share.open()) if share is not None and self._cue.needs_motion else 0.0
        aligned = doubted(aligned, image.image, recognised, moving)
        self._take_note(aligned)
        self._motion = motion
        if self._journal is not None:
            with watch("journal"):
                self._journal.add(geometry, masks, aligned, focal_known=image.K is not None)
        with watch("output"):
            return self._result(image, motion.get(frame.index), share, aligned, watch)

    def _moving_share(self, image: NetworkInput, masks: Mapping[int, torch.Tensor], parcel: Parcel) -> Landing | None:
        """() share of the network image that the new frame's mask takes, on its way to the host; None: no mask."""
        mask = masks.get(image.frame.index)
        return None if mask is None else parcel.add(mask.float().mean())

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

    def _new_pairs(self) -> list[tuple[Features, Features]]:
        return self._window.new_pairs(self._partners)

    def _new_edges(self) -> list[Edge]:
        return [(a.index, b.index) for a, b in self._new_pairs()]

    def _find_flows(self) -> None:
        """In a thread, while the network works; a backbone without attention finds its own."""
        if not self.backbone.has_attention:
            return
        edges = self._new_edges()
        if self._cue.needs_motion:
            self._meter.start(self._window.features, edges)
        elif self._level.passes == 1 and edges:
            self._meter.start(self._window.features, [edges[0]])  # to the nearest frame

    def _expected_motion(self) -> dict[int, MotionEstimate]:
        """With a single pass, what is known to move before the new frame is decoded; else nothing.

        Of earlier frames it is what was found last. Of the new frame what its predecessor's mask becomes, carried along
        the flow, if a flow is known before its pairs are.
        """
        if self._level.passes == 2:
            return {}
        *earlier, newest = self._window.indices
        known = {index: self._motion[index] for index in earlier if index in self._motion}
        if known and self.backbone.has_attention:
            nearest = max(known)
            flow = self._meter.flow(self._window.features, newest, nearest)
            if flow is not None:
                known[newest] = carried_motion(newest, known[nearest], flow)
        return known

    def _decode(self, masks: Masks | None = None, earlier: Sequence[PairAnswer] = ()) -> Sequence[PairAnswer]:
        """The newest frame's pairs, see `Backbone.attend`.

        Where memory runs out, fewer are decoded at once, and then fewer of them decoded at all, from then on. Raises
        OutOfMemory if nothing is left to be saved.
        """
        pairs = self._new_pairs()
        if not pairs:
            return []
        moving = None if masks is None else masks.moving
        while (answers := attempt(partial(self.backbone.attend, pairs, masks, earlier, moving))) is None:
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
        self, answers: Sequence[PairAnswer], before: Mapping[int, MotionEstimate], again: bool = False
    ) -> tuple[Sequence[PairAnswer], dict[int, MotionEstimate]]:
        """The pairs, with motion measured where the cue needs it, and the motion in the frames of the window, by index.

        before: what is known to move already. again: that is what the first pass over this frame found. Pointmaps are
        made for the pairs that are measured, and no others; the second pass measures them again where the first saw
        them, without what moves.
        """
        features = self._window.features
        self._window.record(answers)
        if self._cue.needs_motion:
            if not again:
                parcel = Parcel("motion")
                measured = self._meter.measurable(features, answers)
                made = self._pointmaps([answer for answer in answers if answer.edge in measured])
                answers = with_pointmaps(answers, made)
                self._meter.offer([pair for pair in made if pair.edge in measured], parcel)
                self._cue.offer(features, self._window.evidence, parcel)
            moving = {index: estimate.cells for index, estimate in before.items()}
            answers = self._meter.complete(features, answers, moving)
            self._window.record(answers)
        found = self._cue.estimate(features, self._window.evidence, again)
        return answers, with_excluded(found, features)

    def _build_cue(self, config: PipelineConfig) -> MotionCue:
        return build_cue(config.motion, self.backbone.has_attention)

    def _build_refiner(self, config: PipelineConfig) -> MaskRefiner | None:
        """Raises ConfigError and MissingLibrary, see `load_sam2`."""
        if config.motion.refine != "sam2":
            return None
        from easi3r_ros.core.dust3r.inference import device_named

        return MaskRefiner(load_sam2(config.motion, device_named(config.backbone.device)), config.motion.sam2_wait)

    def _refined(self, result: FrameResult) -> FrameResult:
        mask = self._refiner.settle(result.frame, result.mask)
        if mask is result.mask:
            return result
        return result.changed(mask=mask, dynamic_fraction=float(mask.mean()))

    def _decode_fewer_at_once(self) -> bool:
        """Whether that is possible. It costs time alone."""
        count = self.backbone.decode_fewer_at_once()
        if count is not None:
            log.warning("out of memory: pairs are decoded %d at a time from now on", count)
        return count is not None

    def _fewer_pairs(self, pairs: Sequence[tuple[Features, Features]]) -> list[tuple[Features, Features]]:
        """Less than `pairs` of the newest frame, and of every later one. Raises OutOfMemory if there cannot be less."""
        partners, fewer = self._partners, list(pairs)
        while len(partners) > self._fewest and len(fewer) == len(pairs):
            partners = partners.first(max(self._fewest, len(partners) // 2))
            fewer = self._window.new_pairs(partners)
        if len(fewer) == len(pairs):  # the same again would fail again
            raise OutOfMemory(
                f"there is too little memory for {len(pairs)} pairs of frames, and no less will do: {ADVICE}"
            )
        self._possible = partners
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
        self,
        image: NetworkInput,
        motion: MotionEstimate | None,
        share: Landing | None,
        aligned: AlignedFrame,
        watch: StopWatch,
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
            dynamic_fraction=0.0 if share is None else seen_share(image.transform) * float(share.open()),
            window=self._window.indices,
            latency_ms=watch.milliseconds,
            evidence=Deferred(maps.evidence),
            effort=self._described_effort,
        )


class Answer(NamedTuple):
    """What was said about the last image."""

    image: np.ndarray  # (h, w, 3) uint8 RGB, the network image
    result: FrameResult

    def again(self, frame: Frame, watch: StopWatch) -> FrameResult:
        """The same, for an image that repeats it; with a word once nobody can tell whether the camera still works."""
        result = self.result
        seconds = (frame.stamp_ns - result.frame.stamp_ns) * 1e-9
        same = {"state": result.state, "reason": result.reason}
        if seconds > FROZEN_SECONDS and result.state is TrackingState.TRACKING:
            reason = f"the same image for {seconds:.0f} s: the camera hangs, or nothing at all happens in a simulation"
            same = {"state": TrackingState.DEGRADED, "reason": reason}
        return result.changed(frame=frame, latency_ms=watch.milliseconds, **same)


def with_pointmaps(answers: Sequence[PairAnswer], made: Sequence[PairGeometry]) -> list[PairAnswer]:
    """The answers, in their order, where those of which the pointmaps were made take the place of the others."""
    complete = {pair.edge: pair for pair in made}
    return [complete.get(answer.edge, answer) for answer in answers]


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
