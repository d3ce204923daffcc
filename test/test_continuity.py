"""What continues a world: late, equal and repeated stamps, a calibration that breathes, a zoom, another camera."""

import numpy as np
import pytest
from helpers_io import HEIGHT, WIDTH, FakePipeline, make_result, picture

from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.continuity import MANY_LATE, Continuity, LateImage, is_same_camera
from easi3r_ros.core.types import Frame
from easi3r_ros.io.recording import run
from easi3r_ros.io.sources import FrameSource, SourceError
from easi3r_ros.io.writers import TrajectoryWriter
from easi3r_ros.messages.message_types import Header
from easi3r_ros.messages.results import ResultMessages

SECOND = 1_000_000_000
SIZE = (640, 480)
K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])


def scaled(fx=1.0, fy=None, cx=0.0):
    out = K.copy()
    out[0, 0] *= fx
    out[1, 1] *= fx if fy is None else fy
    out[0, 2] += cx
    return out


def frame(stamp_ns, K=None, size=(8, 6)):
    return Frame(0, stamp_ns, "cam", np.zeros((size[1], size[0], 3), np.uint8), K)


class Stream:
    def __init__(self, late=1.0):
        self.continuity = Continuity(late)

    def __call__(self, *args, **options):
        made = self.continuity.completed(frame(*args, **options))
        reason = self.continuity.judge(made)
        if reason:
            self.continuity.reset()
        self.continuity.took(made)
        return reason


@pytest.fixture
def stream():
    return Stream()


class TestTime:
    @pytest.mark.parametrize("back", [1, 66_000_000, SECOND])
    def test_late_images_are_left_out(self, stream, back):
        stream(10 * SECOND)
        with pytest.raises(LateImage):
            stream(10 * SECOND - back)
        assert stream(10 * SECOND + 1) == ""

    def test_the_limit_is_a_setting(self):
        stream = Stream(late=0.01)
        stream(10 * SECOND)
        assert stream(10 * SECOND - 66_000_000) == "time jumped back by 0.066 s"

    def test_a_long_jump_back_is_a_new_world(self, stream):
        stream(10 * SECOND)
        assert stream(SECOND) == "time jumped back by 9.000 s"
        assert stream(2 * SECOND) == ""

    def test_a_short_loop_is_one_in_the_end(self, stream):
        """Such as a bag of half a second that is played again and again without /clock."""
        stream(SECOND)
        for _ in range(MANY_LATE):
            with pytest.raises(LateImage):
                stream(SECOND // 2)
        assert "jumped back" in stream(SECOND // 2) and stream(SECOND // 2 + 1) == ""

    @pytest.mark.parametrize(("stamp", "words"), [(0, "the images' stamps are all 0"), (5, "equal stamps")])
    def test_stamps_that_do_not_move_are_told_once(self, stream, caplog, stamp, words):
        assert [stream(stamp) for _ in range(5)] == [""] * 5
        assert len(caplog.records) == 1 and words in caplog.text


class TestCalibration:
    @pytest.mark.parametrize(
        ("now", "same"),
        [(scaled(1.001), True), (scaled(1.5), True), (scaled(0.5), True), (scaled(cx=5), True)]
        + [(scaled(5.0), False), (scaled(1.0, 1.1), False), (scaled(cx=60), False)],
    )
    def test_one_lens(self, now, same):
        assert is_same_camera(K, now, SIZE) == same

    def test_a_breathing_autofocus_says_nothing(self, stream, caplog):
        assert [stream(i, scaled(1 + 0.001 * (i % 3)), SIZE) for i in range(6)] == [""] * 6
        assert caplog.records == []

    def test_a_zoom_is_told_and_the_world_goes_on(self, stream, caplog):
        stream(1, K, SIZE)
        assert stream(2, scaled(1.2), SIZE) == "" and "from 500 to 600 pixels: a zoom" in caplog.text

    def test_another_camera_is_another_world(self, stream):
        stream(1, K, SIZE)
        assert "calibration changed from fx 500, fy 500" in stream(2, scaled(1.0, 1.3), SIZE)
        assert "image size" in stream(3, K, (8, 6))

    def test_calibration_comes_in_and_goes_away(self, stream, caplog):
        stream(1, None, SIZE)
        assert stream(2, K, SIZE) == "the camera's calibration came in"
        assert stream(3, None, SIZE) == "" and "went away" in caplog.text
        assert stream(4, K, SIZE) == "" and len(caplog.records) == 1


class Frames(FrameSource):
    def __init__(self, stamps, size=None):
        self.path, self.stamps, self.sizes = "clip", stamps, size or {}

    length = rate = None

    def __iter__(self):
        for index, stamp in enumerate(self.stamps):
            yield Frame(index, stamp, "cam", picture(index, *self.sizes.get(index, (WIDTH, HEIGHT))))

    def close(self):
        pass


class TestRecordings:
    """Decide as the node does."""

    def run(self, tmp_path, stamps, size=None, pipeline=None):
        source = Frames(stamps, size)
        summary = run(source, pipeline or FakePipeline(), [TrajectoryWriter(tmp_path / "t.txt")])
        lines = (tmp_path / "t.txt").read_text().splitlines()
        return source, summary, [float(line.split()[0]) for line in lines if not line.startswith("#")], lines

    def test_late_images_are_counted(self, tmp_path, caplog):
        source, summary, stamps, _ = self.run(tmp_path, [0, SECOND, SECOND // 2, SECOND - 1, 2 * SECOND])
        assert (summary.frames, summary.late, source.losses.late) == (3, 2, 2) and stamps == [0, 1, 2]
        assert "2 pictures older than the one before left out" in str(source.losses)
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("stamps", [[0] * 5, [0, 0, SECOND, SECOND]])
    def test_equal_stamps_leave_the_trajectory_valid(self, tmp_path, stamps):
        _, summary, lines, _ = self.run(tmp_path, stamps)
        assert summary.frames == len(stamps) and lines == sorted(set(lines))

    def test_a_jump_back_is_a_new_world(self, tmp_path):
        pipeline = FakePipeline()
        _, summary, stamps, lines = self.run(tmp_path, [5 * SECOND, 6 * SECOND, 0, SECOND, 7 * SECOND], None, pipeline)
        assert summary.frames == 5 and summary.restarts == 1 and pipeline.resets == 1
        assert stamps == [5, 6, 7] and any("a new world" in line for line in lines)

    def test_a_picture_of_another_size_is_left_out(self, tmp_path):
        source, summary, stamps, _ = self.run(tmp_path, range(0, 6 * SECOND, SECOND), {3: (80, 60)})
        assert summary.frames == 5 and source.losses.left_out == 1 and stamps == [0, 1, 2, 4, 5]
        with pytest.raises(SourceError, match="split the recording there"):
            self.run(tmp_path, range(0, 20 * SECOND, SECOND), {i: (80, 60) for i in range(4, 20)})


def test_one_transform_per_time():
    messages = ResultMessages("map", 10, CloudConfig())

    def transform(stamp_ns):
        return messages.transform(make_result(1).changed(frame=frame(stamp_ns)), Header(frame_id="cam"))

    assert [transform(stamp) is not None for stamp in (5, 5, 4, 6)] == [True, False, False, True]
    messages.restart()
    assert transform(1) is not None, "a new world"
