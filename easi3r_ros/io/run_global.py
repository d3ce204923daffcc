"""A whole recording through the pipeline, then aligned as a whole, then written: `easi3r run --global`."""

from __future__ import annotations

import gzip
import pickle
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from easi3r_ros.core.alignment.journal import PairJournal
from easi3r_ros.core.alignment.offline import GlobalAlignment, align_globally
from easi3r_ros.core.types import Frame, FrameResult
from easi3r_ros.io.run import Pipe, Summary, run
from easi3r_ros.io.source import FrameSource, SourceError
from easi3r_ros.io.writers import ResultWriter

Progress = Callable[[], AbstractContextManager[Callable[[FrameResult], None]]]


def run_globally(
    source: FrameSource,
    pipeline: Pipe,
    journal: PairJournal,
    open_writers: Callable[[], Sequence[ResultWriter]],
    scratch: Path,
    progress: Progress,
    max_frames: int | None = None,
) -> tuple[Summary, GlobalAlignment]:
    """Push every frame (or the first `max_frames`), align them all, read the source again and write the results.

    journal: the one that the pipeline fills. open_writers: called after the alignment, so that nothing half-done is
    left if that fails. scratch: folder for results in between, some 1 to 4 MB per frame of 640 x 480. progress: called
    for each of the two passes. Raises GlobalAlignmentError, and what `run` raises.
    """
    with ResultSpool(scratch) as spool:
        with progress() as on_result:
            run(source, _Recording(pipeline, spool), [], max_frames, on_result)
        alignment = align_globally(journal)
        with progress() as on_result:
            summary = run(source, _Replay(spool, alignment, source), open_writers(), max_frames, on_result)
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
        frame = replace(result.frame, image=np.empty((0, 0, 3), np.uint8))
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

    def push(self, frame: Frame) -> FrameResult:
        result = self._pipeline.push(frame)
        self._spool.write(result)
        return result


class _Replay:
    """The results that were kept, with their images again and as the alignment corrects them."""

    def __init__(self, spool: ResultSpool, alignment: GlobalAlignment, source: FrameSource):
        self._spool, self._alignment, self._source = spool, alignment, source
        spool.rewind()

    def push(self, frame: Frame) -> FrameResult:
        try:
            result = self._spool.read()
        except EOFError:
            result = None
        if result is None or result.frame.stamp_ns != frame.stamp_ns:
            raise SourceError(f"'{self._source.path}' changed while it was read: frame {frame.index} is another")
        return self._alignment.frames[frame.index].applied(replace(result, frame=frame))
