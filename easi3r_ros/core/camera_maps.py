"""What is known about the pixels of a frame, brought to the size of the camera when somebody reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import numpy as np

from easi3r_ros.core.clouds import standing_depth
from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.engine import fetch_each
from easi3r_ros.core.preprocess import to_camera
from easi3r_ros.core.types import AlignedFrame, MotionEstimate, NetworkInput, TrackingState


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
        self._excluded = image.frame.excluded  # at the camera's size, so that it comes out as it came in
        self._motion, self._aligned, self._config, self._watch = motion, aligned, config, watch

    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        with self._watch("output"):
            mask = to_camera(self._on_host.mask, self._transform, fill=0.0, smooth=True) > 0.5
            return mask if self._excluded is None else mask | self._excluded

    def probability(self) -> np.ndarray:
        """(H, W) float32; 0 in what the crop removed."""
        with self._watch("output"):
            probability = to_camera(self._on_host.probability, self._transform, fill=0.0, smooth=True)
            return probability if self._excluded is None else np.where(self._excluded, np.float32(1), probability)

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
            landed = fetch_each(list(maps.values()), "evidence") if maps else []
            return {name: values.float().numpy() for name, values in zip(maps, landed, strict=True)}

    @cached_property
    def _on_host(self) -> NetworkMaps:
        """In one copy."""
        aligned, motion = self._aligned, self._motion
        maps = [aligned.depth, aligned.confidence]
        if motion is not None:
            maps += [motion.probability, motion.mask]
        landed = [single.numpy() for single in fetch_each(maps, "result")]
        return NetworkMaps(*landed, *[np.zeros(self._shape, np.float32)] * (4 - len(maps)))

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
    mask: np.ndarray  # or bool


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
