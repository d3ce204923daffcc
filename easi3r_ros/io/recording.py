"""A whole recording through the pipeline, then aligned as a whole, then written: `easi3r run --global`."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import pickle
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from easi3r_ros.core.alignment.whole import GlobalAlignment, PairJournal, align_globally
from easi3r_ros.core.config import PipelineConfig, WindowConfig
from easi3r_ros.core.continuity import Continuity, LateImage
from easi3r_ros.core.types import Frame, FrameResult
from easi3r_ros.io.manifest import ForeignFile, Manifest, has_manifest, remove_results
from easi3r_ros.io.opener import opener_of
from easi3r_ros.io.sources import FrameSource, SourceError
from easi3r_ros.io.writers import CloudWriter, MaskWriter, OverlayWriter, ResultWriter, TrajectoryWriter, WriteError
from easi3r_ros.mapping.placing import Placing

if TYPE_CHECKING:
    from easi3r_ros.messages.status import BackboneInfo

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect at the end of the block. They reach the main thread only, so others do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: pending.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if pending:
            signal.raise_signal(pending[0])


OUTPUTS = ("masks", "trajectory", "clouds", "video", "bag")
NAMES = {
    "masks": "masks",
    "trajectory": "trajectory.txt",
    "clouds": "clouds",
    "video": "overlay.mp4",
    "bag": "bag",
    "viewer": "recording.rrd",
    "summary": "summary.json",
}
MIN_SIDE = 16  # pixels; smaller images show nothing that could be tracked
MANY_MISFITS = 5  # pictures of another size in a row
DEFAULT_RATE = 30.0  # of the overlay, where the source does not know


class Pipe(Protocol):
    """What of a Pipeline is used here."""

    def push(self, frame: Frame) -> FrameResult: ...

    def reset(self) -> None: ...


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
    left_out: int = 0  # damaged pictures, of which nothing was written
    breaks_off: bool = False  # the end of the recording is missing
    late: int = 0  # pictures older than those before them, left out
    restarts: int = 0  # new worlds, because time went back or the camera changed

    @property
    def frames_per_second(self) -> float:
        """What the pipeline alone would reach at its median latency."""
        return 1e3 / self.latency_p50_ms if self.latency_p50_ms > 0 else float("inf")


def check_input(path: Path, out: Path) -> None:
    """Raises WriteError if the recording lies where the results go: one of them could replace it."""
    recording, folder = path.resolve(), out.resolve()
    if opener_of(path) is None and (recording == folder or folder in recording.parents):
        raise WriteError(f"the input '{path}' lies in '{out}', where the results go: choose another folder for them")


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make `out` ready for a run. With `overwrite`, what earlier runs wrote there is removed, and nothing else.

    Raises WriteError if something is in the way that no run wrote, or `out` is no folder; nothing is removed then.
    """
    if out.exists() and not out.is_dir():
        raise WriteError(f"'{out}' is a file, not a folder")
    out.mkdir(parents=True, exist_ok=True)
    if overwrite:
        try:
            remove_results(out, list(NAMES.values()))
        except ForeignFile as error:
            raise WriteError(str(error)) from error
    elif any(out.iterdir()):
        advice = ", or --overwrite what an earlier run wrote there" if has_manifest(out) else ""
        raise WriteError(f"'{out}' is not empty: choose another folder{advice}")


def check_outputs(outputs: Sequence[str], viewer: str | None = None) -> None:
    """Raises MissingLibrary if a chosen output cannot be written here: better now than at the end of a long run.

    viewer: one of `viewer.VIEWERS`. Raises WriteError for any other.
    """
    if "bag" in outputs:
        importlib.import_module("easi3r_ros.io.bag_writer")
    if viewer is not None:
        importlib.import_module("easi3r_ros.io.viewer").check_viewer(viewer)


def open_writers(
    out: Path,
    outputs: Sequence[str],
    source: FrameSource,
    config: PipelineConfig,
    backbone: BackboneInfo,
    clouds_every: int,
    viewer: str | None = None,
) -> list[ResultWriter]:
    """Writers for the chosen OUTPUTS and `viewer`, in `out`. Raises MissingLibrary, WriteError and OSError."""
    check_outputs(outputs, viewer)
    record = Manifest(out).record

    def bag_writer(path: Path) -> ResultWriter:
        from easi3r_ros.io.bag_writer import BagWriter

        return BagWriter(path, config.clouds, backbone, lambda: source.camera_info, record)

    def viewer_writer(path: Path) -> ResultWriter:
        from easi3r_ros.io.viewer import RerunWriter

        return RerunWriter(path, config.clouds, config.level, clouds_every, viewer == "rerun-live", record)

    make: dict[str, Callable[[Path], ResultWriter]] = {
        "masks": lambda path: MaskWriter(path, record),
        "trajectory": lambda path: TrajectoryWriter(path, record),
        "clouds": lambda path: CloudWriter(path, config.clouds, clouds_every, record),
        "video": lambda path: OverlayWriter(path, source.rate or DEFAULT_RATE, record),
        "bag": bag_writer,
        "viewer": viewer_writer,
    }
    chosen = outputs if viewer is None else (*outputs, "viewer")
    return [make[name](out / NAMES[name]) for name in chosen]


def run(
    source: FrameSource,
    pipeline: Pipe,
    writers: Sequence[ResultWriter],
    max_frames: int | None = None,
    on_result: Callable[[FrameResult], None] | None = None,
    late: float = WindowConfig.late,
    placing: Placing | None = None,
) -> Summary:
    """Push every frame (or the first `max_frames`), write every result, close the writers whatever happens.

    late: seconds, as `WindowConfig.late`: what the node leaves out, or takes for a new beginning, counts here, too.
    placing: brings results into `map`, as the node does; None: they stay in the alignment's world.
    Raises SourceError (for images that are too small, too), WriteError, and what the pipeline raises; what was written
    until then stays readable.
    """
    statistics, stack = _Statistics(), ExitStack()
    continuity = Continuity(late)
    for writer in writers:
        stack.enter_context(writer)
    try:
        for frame in islice(source, max_frames):
            if (
                not statistics.fits(frame, source)
                or (result := statistics.judged(continuity, frame, pipeline, source, placing)) is None
            ):
                continue
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


def _pushed(pipeline: Pipe, frame: Frame, source: FrameSource, first: bool) -> FrameResult:
    try:
        return pipeline.push(frame)
    except ValueError as error:  # an image that a backbone cannot take, which the first one shows already
        if not first:
            raise
        raise SourceError(f"'{source.path}' cannot be processed: {error}") from error


def write_summary(summary: Summary, out: Path) -> None:
    """The summary as JSON, beside the results."""
    path = out / NAMES["summary"]
    path.write_text(json.dumps(asdict(summary), indent=2) + "\n")
    Manifest(out).record(path, True)


class _Statistics:
    def __init__(self) -> None:
        self._latencies: list[float] = []
        self._dynamic = 0.0
        self._states: Counter[str] = Counter()
        self._path = 0.0
        self._restarts = self._misfits = 0
        self._worlds = 0  # before the last restart
        self._last: FrameResult | None = None

    @property
    def empty(self) -> bool:
        return self._last is None

    def fits(self, frame: Frame, source: FrameSource) -> bool:
        """Whether a frame has the size of those before: outputs have one size, and so has a world.

        Raises SourceError if images are tiny, or if many in a row have another size.
        """
        if min(frame.image.shape[:2]) < MIN_SIDE:
            height, width, _ = frame.image.shape
            raise SourceError(
                f"'{source.path}': the images are {width}x{height} pixels, at least {MIN_SIDE}x{MIN_SIDE} are needed"
            )
        before = self._last.frame.image.shape if self._last else frame.image.shape
        if frame.image.shape != before:
            (height, width, _), (old_height, old_width, _) = frame.image.shape, before
            text = f"frame {frame.index} is {width}x{height}, those before are {old_width}x{old_height}"
            self._misfits += 1
            if self._misfits == MANY_MISFITS:
                raise SourceError(f"'{source.path}': {text}, and so are others: split the recording there")
            log.warning("'%s': %s: left out", source.path, text)
            source.losses = replace(source.losses, left_out=source.losses.left_out + 1)
            return False
        self._misfits = 0
        return True

    def judged(
        self, continuity: Continuity, frame: Frame, pipeline: Pipe, source: FrameSource, placing: Placing | None
    ) -> FrameResult | None:
        """The result of a frame, in the world that it belongs to; None: it is left out as late."""
        frame = continuity.completed(frame)
        try:
            reason = continuity.judge(frame)
        except LateImage as error:
            if not source.losses.late:
                log.warning("'%s', frame %d: %s; others are only counted", source.path, frame.index, error)
            source.losses = replace(source.losses, late=source.losses.late + 1)
            return None
        if reason:
            log.warning("'%s', frame %d: %s: tracking starts again in a new world", source.path, frame.index, reason)
            pipeline.reset()
            if placing is not None:
                placing.restart()
            self._restarts, self._worlds = self._restarts + 1, self._last.world + 1
        result = _pushed(pipeline, frame, source, self.empty)
        continuity.took(frame)
        if placing is not None:
            result = placing.place(result)
        return result.changed(world=result.world + self._worlds) if self._worlds else result

    def add(self, result: FrameResult) -> None:
        self._latencies.append(sum(result.latency_ms.values()))
        self._dynamic += result.dynamic_fraction
        self._states[result.state.value] += 1
        if self._last is not None and self._last.world == result.world:
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
            left_out=source.losses.left_out,
            breaks_off=source.losses.breaks_off,
            late=source.losses.late,
            restarts=self._restarts,
        )


Progress = Callable[[], AbstractContextManager[Callable[[FrameResult], None]]]


def run_globally(
    source: FrameSource,
    pipeline: Pipe,
    journal: PairJournal,
    open_writers: Callable[[], Sequence[ResultWriter]],
    scratch: Path,
    progress: Progress,
    max_frames: int | None = None,
    late: float = WindowConfig.late,
    placing: Placing | None = None,
) -> tuple[Summary, GlobalAlignment]:
    """Push every frame (or the first `max_frames`), align them all, read the source again and write the results.

    journal: the one that the pipeline fills. open_writers: called after the alignment, so that nothing half-done is
    left if that fails. scratch: folder for results in between, some 1 to 4 MB per frame of 640 x 480. progress: called
    for each of the two passes. Raises GlobalAlignmentError, and what `run` raises.
    """
    with ResultSpool(scratch) as spool:
        with progress() as on_result:
            run(source, _Recording(pipeline, spool), [], max_frames, on_result, late)
        alignment = align_globally(journal)
        with progress() as on_result:
            replay = _Replay(spool, alignment, source)
            summary = run(source, replay, open_writers(), max_frames, on_result, late, placing)
    return summary, alignment


class ResultSpool:
    """Results on disk, without their images, to be read back once in the same order. A context manager."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __enter__(self) -> ResultSpool:
        self._file = tempfile.TemporaryFile(dir=self._folder)  # has no name: nothing is left behind, whatever happens
        self._stream = gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._file.close()

    def write(self, result: FrameResult) -> None:
        """Raises OSError where the disk is full."""
        frame = replace(result.frame, image=np.empty((0, 0, 3), np.uint8), received=None)
        pickle.dump(replace(result, frame=frame), self._stream, pickle.HIGHEST_PROTOCOL)

    def rewind(self) -> None:
        """From now on `read`."""
        self._stream.close()
        self._file.seek(0)
        self._stream = gzip.GzipFile(fileobj=self._file, mode="rb")

    def read(self) -> FrameResult:
        return pickle.load(self._stream)  # our own file, which nobody else can open


class _Recording:
    """A pipeline whose results are kept."""

    def __init__(self, pipeline: Pipe, spool: ResultSpool):
        self._pipeline, self._spool = pipeline, spool

    def reset(self) -> None:
        self._pipeline.reset()

    def push(self, frame: Frame) -> FrameResult:
        result = self._pipeline.push(frame)
        self._spool.write(result)
        return result


class _Replay:
    """The results that were kept, with their images again and as the alignment corrects them."""

    def __init__(self, spool: ResultSpool, alignment: GlobalAlignment, source: FrameSource):
        self._spool, self._alignment, self._source = spool, alignment, source
        spool.rewind()

    def reset(self) -> None:
        """What is read was in a world of its own already."""

    def push(self, frame: Frame) -> FrameResult:
        try:
            result = self._spool.read()
        except EOFError:
            result = None
        if result is None or result.frame.stamp_ns != frame.stamp_ns:
            raise SourceError(f"'{self._source.path}' changed while it was read: frame {frame.index} is another")
        frames, result = self._alignment.frames, replace(result, frame=frame)
        if frame.index in frames:
            return frames[frame.index].applied(result)
        # An image that repeats another is where that one is; one that shows nothing is nowhere.
        return frames[max(result.window)].applied(result) if result.state.has_pose else result
