"""Results kept on disk between the two passes of `run --global`, and written with what the alignment found."""

from contextlib import contextmanager

import numpy as np
import pytest
from helpers_io import FakePipeline, camera_bag, make_result, picture

import easi3r_ros.io.recording as module
from easi3r_ros.core.alignment.whole import GlobalAlignment, GlobalAlignmentError, PairJournal, RefinedFrame
from easi3r_ros.io import open_source
from easi3r_ros.io.recording import ResultSpool, run_globally
from easi3r_ros.io.sources import SourceError
from easi3r_ros.io.writers import MaskWriter, ResultWriter, TrajectoryWriter

FRAMES = 5


class Collector(ResultWriter):
    def __init__(self):
        self.results, self.closed = [], False

    def write(self, result):
        self.results.append(result)

    def close(self):
        self.closed = True


@contextmanager
def no_progress():
    yield lambda result: None


@pytest.fixture
def source(tmp_path):
    with open_source(camera_bag(tmp_path / "in", FRAMES)) as source:
        yield source


@pytest.fixture
def shifted(monkeypatch):
    """An alignment that moves every camera by 10 units and doubles depth."""
    frames = {}
    for index in range(FRAMES):
        pose = make_result(index).world_from_cam.copy()
        pose[1, 3] += 10.0
        frames[index] = RefinedFrame(pose, 4 * np.eye(6), 2.0, 1.0)
    alignment = GlobalAlignment(frames, 70.0, 10.0, 2e-3, 1e-3)
    monkeypatch.setattr(module, "align_globally", lambda journal: alignment)
    return alignment


def test_everything_is_written_as_aligned(source, shifted, tmp_path):
    collector, passes = Collector(), []

    @contextmanager
    def progress():
        passes.append([])
        yield lambda result: passes[-1].append(result.frame.index)

    def writers():
        return [collector, MaskWriter(tmp_path / "masks"), TrajectoryWriter(tmp_path / "trajectory.txt")]

    summary, alignment = run_globally(source, FakePipeline(), PairJournal(), writers, tmp_path, progress)
    assert alignment is shifted and summary.frames == FRAMES and summary.path_length == pytest.approx(0.4)
    assert passes == [list(range(FRAMES))] * 2
    assert collector.closed and len(list((tmp_path / "masks").iterdir())) == FRAMES
    for index, result in enumerate(collector.results):
        plain = make_result(index)
        assert result.frame.index == index and result.frame.stamp_ns == plain.frame.stamp_ns
        assert np.abs(result.frame.image.astype(int) - picture(index)).max() <= 3
        assert np.array_equal(result.mask, plain.mask)
        assert np.allclose(result.depth, 2 * plain.depth, equal_nan=True)
        assert result.world_from_cam[1, 3] == 10.0
    written = np.loadtxt(tmp_path / "trajectory.txt")
    assert np.allclose(written[:, 2], 10.0) and np.allclose(written[:, 1], 0.1 * np.arange(FRAMES))


def test_only_so_many_frames(source, shifted, tmp_path):
    collector = Collector()
    summary, _ = run_globally(
        source, FakePipeline(), PairJournal(), lambda: [collector], tmp_path, no_progress, max_frames=3
    )
    assert summary.frames == len(collector.results) == 3


def test_nothing_is_left_where_nothing_can_be_aligned(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()

    def never():
        raise AssertionError("nothing to write")

    with pytest.raises(GlobalAlignmentError):
        run_globally(source, FakePipeline(), PairJournal(), never, out, no_progress)
    assert not list(out.iterdir())


def test_a_recording_that_changes_between_the_passes_is_noticed(source, shifted, tmp_path, monkeypatch):
    class Once(FakePipeline):
        def push(self, frame):
            result = super().push(frame)
            monkeypatch.setattr(type(source), "__iter__", lambda self: later)
            return result

    later = iter(list(source)[1:])
    with pytest.raises(SourceError, match="changed while it was read: frame 1"):
        run_globally(source, Once(), PairJournal(), lambda: [Collector()], tmp_path, no_progress)


def test_spool_gives_back_what_it_got_without_images(tmp_path):
    with ResultSpool(tmp_path) as spool:
        for index in range(3):
            spool.write(make_result(index))
        spool.rewind()
        for index in range(3):
            plain, result = make_result(index), spool.read()
            assert result.frame.image.size == 0 and result.frame.stamp_ns == plain.frame.stamp_ns
            for name in ("mask", "probability", "depth", "confidence", "K", "world_from_cam"):
                assert np.array_equal(getattr(result, name), getattr(plain, name), equal_nan=True), name
            assert result.state is plain.state and result.latency_ms == plain.latency_ms
        with pytest.raises(EOFError):
            spool.read()
    assert not list(tmp_path.iterdir())
