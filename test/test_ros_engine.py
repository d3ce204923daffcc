"""The stream of images between messages and pipeline: breaks, memory, calibration, log lines. No ROS needed."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.continuity import LateImage
from easi3r_ros.messages.calibration import CameraModel
from easi3r_ros.ros.logs import RosLogHandler, Throttle
from easi3r_ros.ros.tracker import Tracker

SECOND = 1_000_000_000
K = np.array([[50.0, 0, 4], [0, 50, 3], [0, 0, 1]])


class FakePipeline:
    """Remembers what it was given; `trouble` holds exceptions for the next pushes."""

    trouble: list[Exception] = []

    def __init__(self, config):
        self.config = config
        self.backbone = SimpleNamespace(name="fake", has_attention=False, default_offsets=(1, 3, 5))
        self.frames = []

    def reset(self):
        self.frames = []

    def reconfigure(self, config):
        self.config = config

    def push(self, frame):
        if FakePipeline.trouble:
            raise FakePipeline.trouble.pop(0)
        self.frames = [*self.frames, frame][-3:]
        return SimpleNamespace(frame=frame, window=tuple(f.index for f in self.frames), pipeline=self)


@pytest.fixture
def restarts():
    return []


@pytest.fixture
def engine(restarts):
    FakePipeline.trouble = []
    return Tracker(PipelineConfig(), restarts.append, FakePipeline)


def push(engine, stamp_ns, width=8, frame_id="cam", K=None):
    return engine.process(np.zeros((6, width, 3), np.uint8), stamp_ns, frame_id, K)


def test_frames_are_numbered_and_keep_their_stamps(engine, restarts):
    results = [push(engine, stamp) for stamp in (5, 5, 9, 30, 31)]
    assert [(r.frame.index, r.frame.stamp_ns) for r in results] == [(0, 5), (1, 5), (2, 9), (3, 30), (4, 31)]
    assert [engine.stamp_ns(i) for i in results[-1].window] == [9, 30, 31]
    assert restarts == []
    with pytest.raises(KeyError):
        engine.stamp_ns(0)  # left the window: memory is bounded


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stamp_ns": 8 * SECOND}, "time jumped back by 2.000 s"),
        ({"width": 16}, "the image size changed from 8 x 6 to 16 x 6"),
        ({"frame_id": "other"}, "the frame_id changed from 'cam' to 'other'"),
        (
            {"K": K * 2},
            "the camera's calibration changed from fx 50, fy 50, centre (4, 3) to fx 100, fy 100, centre (8, 6)",
        ),
    ],
)
def test_a_break_starts_a_new_world(engine, restarts, change, reason):
    usual = {"stamp_ns": 10 * SECOND, "K": K}
    push(engine, **usual)
    push(engine, **usual)
    result = push(engine, **{**usual, **change})
    assert len(restarts) == 1 and restarts[0].endswith(reason)
    assert result.frame.index == 0 and result.window == (0,)
    push(engine, **{**usual, **change})
    assert len(restarts) == 1, "the new stream is no break"


def test_late_images_are_refused_and_disturb_nothing(engine, restarts):
    push(engine, 10 * SECOND)
    with pytest.raises(LateImage, match="0.066 s older than the one before"):
        push(engine, 10 * SECOND - 66_000_000)
    result = push(engine, 10 * SECOND + 1)
    assert result.frame.index == 1 and restarts == []


def test_a_calibration_that_goes_away_is_used_on(engine, restarts):
    push(engine, 1, K=K)
    assert np.array_equal(push(engine, 2).frame.K, K) and restarts == []


def test_late_calibration_starts_a_new_world(engine, restarts):
    push(engine, 1)
    push(engine, 2, K=K)
    assert restarts == ["the camera's calibration came in"]


def test_reset(engine, restarts):
    push(engine, 10)
    engine.reset()
    assert push(engine, 1).frame.index == 0 and restarts == []


def test_live_settings_reach_the_pipeline(engine):
    config = PipelineConfig()
    engine.reconfigure(replace(config, motion=replace(config.motion, threshold=0.9)))
    assert push(engine, 1).pipeline.config.motion.threshold == 0.9


class TestCameraModel:
    @pytest.fixture
    def warnings(self):
        return []

    def info(self, **changes):
        roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
        fields = {
            "header": SimpleNamespace(frame_id="cam"),
            "k": K.ravel(),
            "p": np.zeros(12),
            "d": [],
            "width": 8,
            "height": 6,
            "binning_x": 0,
            "binning_y": 0,
            "roi": roi,
        }
        return SimpleNamespace(**{**fields, **changes})

    def test_none_yet(self, warnings):
        assert CameraModel(False, warnings.append).matching((8, 6), "cam") == (None, None)
        assert warnings == []

    def test_matching(self, warnings):
        model, info = CameraModel(False, warnings.append), self.info()
        model.update(info)
        found, matrix = model.matching((8, 6), "cam")
        assert found is info and np.array_equal(matrix, K) and warnings == []

    @pytest.mark.parametrize(
        ("size", "frame", "text"),
        [
            ((16, 12), "cam", "is for images of 8 x 6, the images are 16 x 12"),
            ((8, 6), "x", "has frame_id 'cam', the images have 'x': ignoring it"),
        ],
    )
    def test_of_another_image(self, warnings, size, frame, text):
        model = CameraModel(False, warnings.append, strict=True)
        model.update(self.info())
        for _ in range(3):
            assert model.matching(size, frame) == (None, None)
        assert len(warnings) == 1 and text in warnings[0]

    @pytest.mark.parametrize(
        ("changes", "text"), [({"d": [0.2, 0, 0]}, "lens distortion"), ({"k": np.zeros(9)}, "no calibration")]
    )
    def test_doubtful_calibration_warns_once_and_is_passed_on(self, warnings, changes, text):
        model, info = CameraModel(False, warnings.append), self.info(**changes)
        for _ in range(3):
            model.update(info)
            assert model.matching((8, 6), "cam")[0] is info
        assert len(warnings) == 1 and text in warnings[0]


class TestThrottle:
    def test_same_sentence_once_per_period(self):
        now = [0.0]
        throttle = Throttle(10, lambda: now[0])
        assert throttle.allows("12 bytes of 20") and not throttle.allows("7 bytes of 31")
        assert throttle.allows("another text")
        now[0] = 10.0
        assert throttle.allows("3 bytes of 4")

    def test_memory_is_bounded(self):
        throttle = Throttle(1e9)
        for letter in range(10_000):
            throttle.allows("x" * letter)
        assert len(throttle._said) <= 64


def test_python_logging_reaches_the_ros_logger():
    said = []
    levels = ("debug", "info", "warning", "error", "fatal")
    ros = SimpleNamespace(**{level: lambda text, level=level: said.append((level, text)) for level in levels})
    logger = logging.getLogger("easi3r_ros.test")
    handler = RosLogHandler(ros)
    logger.addHandler(handler)
    try:
        logger.warning("%d of %d", 1, 2)
        logger.critical("end")
    finally:
        logger.removeHandler(handler)
    assert said == [("warning", "1 of 2"), ("fatal", "end")]
