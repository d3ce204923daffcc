"""Feeds one camera's images to a pipeline and starts it again where the stream breaks. Knows no node and no message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.continuity import Continuity
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Frame, FrameResult
from easi3r_ros.messages.rectify import Lens

PipelineFactory = Callable[[PipelineConfig], Pipeline]


def warm_pipeline(config: PipelineConfig) -> Pipeline:
    """A pipeline that is as fast with the first image as with the hundredth, see `Pipeline.warm_up`."""
    pipeline = Pipeline(config)
    pipeline.warm_up()
    return pipeline


class Tracker:
    """One stream of images in, one FrameResult per image out. Not thread-safe.

    on_restart(reason): called when tracking starts again in a new world for a reason found in the stream.
    """

    def __init__(
        self,
        config: PipelineConfig,
        on_restart: Callable[[str], None],
        make_pipeline: PipelineFactory = warm_pipeline,
    ):
        """Builds the pipeline: weights are loaded here. Raises as `Pipeline` and `Pipeline.warm_up`."""
        self._on_restart = on_restart
        self._pipeline = make_pipeline(config)
        self._index = 0
        self._continuity = Continuity(config.window.late)
        self._stamps: dict[int, int] = {}

    @property
    def backbone(self) -> Backbone:
        return self._pipeline.backbone

    def stamp_ns(self, index: int) -> int:
        """Stamp of a frame in the window of the last result. Raises KeyError for any other."""
        return self._stamps[index]

    def reset(self) -> None:
        """Forget all images; the next one starts a new world."""
        self._pipeline.reset()
        self._index = 0
        self._continuity.reset()
        self._stamps = {}

    def reconfigure(self, config: PipelineConfig) -> None:
        """Apply changed live settings from the next image on."""
        self._pipeline.reconfigure(config)
        self._continuity.late = config.window.late

    def process(
        self,
        image: np.ndarray,
        stamp_ns: int,
        frame_id: str,
        K: np.ndarray | None,
        excluded: np.ndarray | None = None,
        lens: Lens | None = None,
    ) -> FrameResult:
        """image: (H, W, 3) uint8 RGB. K: (3, 3) in its pixels, or None. excluded: (H, W) bool, as Frame.

        lens: its distortion is taken out; K is then that of `lens.pinhole`.
        Raises LateImage, ValueError for an unusable image, and OutOfMemory if even the fewest pairs are too many.
        """
        frame = Frame(self._index, stamp_ns, frame_id, image, K, excluded)
        frame = self._continuity.completed(frame if lens is None else lens.frame(frame))
        reason = self._continuity.judge(frame)
        if reason:
            self.reset()
            self._on_restart(reason)
            frame = replace(frame, index=0)
        result = self._pipeline.push(frame)
        self._index = frame.index + 1
        self._continuity.took(frame)
        self._stamps[frame.index] = stamp_ns
        self._stamps = {index: self._stamps[index] for index in result.window}
        return result
