"""A whole recording through the pipeline, every frame in order, with the results written to a folder."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.types import Frame, FrameResult
from easi3r_ros.io.bag_writer import BagWriter
from easi3r_ros.io.interrupts import uninterrupted
from easi3r_ros.io.source import FrameSource, SourceError
from easi3r_ros.io.writers import CloudWriter, MaskWriter, OverlayWriter, ResultWriter, TrajectoryWriter, WriteError
from easi3r_ros.ros.status import BackboneInfo

OUTPUTS = ("masks", "trajectory", "clouds", "video", "bag")
NAMES = {
    "masks": "masks",
    "trajectory": "trajectory.txt",
    "clouds": "clouds",
    "video": "overlay.mp4",
    "bag": "bag",
    "summary": "summary.json",
}
DEFAULT_RATE = 30.0  # of the overlay, where the source does not know


class Pipe(Protocol):
    """What of a Pipeline is used here."""

    def push(self, frame: Frame) -> FrameResult: ...


@dataclass(frozen=True)
class Summary:
    """What came out of a run."""

    frames: int
    width: int  # pixels of the camera image
    height: int
    metric: bool  # world unit is metres
    path_length: float  # of the camera, world units
    dynamic_fraction: float  # mean share of pixels in the mask
    states: dict[str, int]  # frames per tracking state
    latency_p50_ms: float  # wall time of the pipeline per frame
    latency_p95_ms: float

    @property
    def frames_per_second(self) -> float:
        """What the pipeline alone would reach at its median latency."""
        return 1e3 / self.latency_p50_ms if self.latency_p50_ms > 0 else float("inf")


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make `out` ready for a run. With `overwrite`, what an earlier run left there is removed, and nothing else.

    Raises WriteError if the folder holds anything, or is none.
    """
    if out.exists() and not out.is_dir():
        raise WriteError(f"'{out}' is a file, not a folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in NAMES.values() if overwrite else ():
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not overwrite and any(out.iterdir()):
        raise WriteError(f"'{out}' is not empty: choose another folder, or --overwrite what an earlier run left there")


def open_writers(
    out: Path,
    outputs: Sequence[str],
    source: FrameSource,
    config: PipelineConfig,
    backbone: BackboneInfo,
    clouds_every: int,
) -> list[ResultWriter]:
    """Writers for the chosen OUTPUTS, in `out`. Raises WriteError and OSError."""
    make: dict[str, Callable[[Path], ResultWriter]] = {
        "masks": MaskWriter,
        "trajectory": TrajectoryWriter,
        "clouds": lambda path: CloudWriter(path, config.clouds, clouds_every),
        "video": lambda path: OverlayWriter(path, source.rate or DEFAULT_RATE),
        "bag": lambda path: BagWriter(path, config.clouds, backbone, lambda: source.camera_info),
    }
    return [make[name](out / NAMES[name]) for name in outputs]


def run(
    source: FrameSource,
    pipeline: Pipe,
    writers: Sequence[ResultWriter],
    max_frames: int | None = None,
    on_result: Callable[[FrameResult], None] | None = None,
) -> Summary:
    """Push every frame (or the first `max_frames`), write every result, close the writers whatever happens.

    Raises SourceError, WriteError, and what the pipeline raises; what was written until then stays readable.
    """
    statistics, stack = _Statistics(), ExitStack()
    for writer in writers:
        stack.enter_context(writer)
    try:
        for frame in islice(source, max_frames):
            statistics.check(frame, source)
            result = pipeline.push(frame)
            with uninterrupted():
                for writer in writers:
                    writer.write(result)
            statistics.add(result)
            if on_result is not None:
                on_result(result)
    finally:
        with uninterrupted():
            stack.close()
    return statistics.summary(source)


def write_summary(summary: Summary, out: Path) -> None:
    """The summary as JSON, beside the results."""
    (out / NAMES["summary"]).write_text(json.dumps(asdict(summary), indent=2) + "\n")


class _Statistics:
    def __init__(self) -> None:
        self._latencies: list[float] = []
        self._dynamic = 0.0
        self._states: Counter[str] = Counter()
        self._path = 0.0
        self._last: FrameResult | None = None

    def check(self, frame: Frame, source: FrameSource) -> None:
        """Raises SourceError if the size of the images changes: the outputs have one size, and so has a world."""
        before = self._last.frame.image.shape if self._last else frame.image.shape
        if frame.image.shape != before:
            (height, width, _), (old_height, old_width, _) = frame.image.shape, before
            raise SourceError(
                f"'{source.path}': frame {frame.index} is {width}x{height}, those before are {old_width}x{old_height}: "
                "split the recording there"
            )

    def add(self, result: FrameResult) -> None:
        self._latencies.append(sum(result.latency_ms.values()))
        self._dynamic += result.dynamic_fraction
        self._states[result.state.value] += 1
        if self._last is not None:
            self._path += float(np.linalg.norm(result.world_from_cam[:3, 3] - self._last.world_from_cam[:3, 3]))
        self._last = result

    def summary(self, source: FrameSource) -> Summary:
        if self._last is None:
            raise SourceError(f"'{source.path}' gave no frame")
        p50, p95 = np.percentile(self._latencies, [50, 95])
        height, width = self._last.mask.shape
        return Summary(
            frames=len(self._latencies),
            width=width,
            height=height,
            metric=self._last.metric,
            path_length=self._path,
            dynamic_fraction=self._dynamic / len(self._latencies),
            states=dict(self._states),
            latency_p50_ms=float(p50),
            latency_p95_ms=float(p95),
        )
