"""Rendered clips as inputs of `easi3r run` and `easi3r play`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from easi3r_lab.synthetic import iter_frames

from easi3r_ros.io import SourceError, open_source
from easi3r_ros.io.playback import open_playback

pytestmark = pytest.mark.usefixtures("registered_laboratory")


def test_frames_are_those_of_the_preset():
    with open_source(Path("synthetic:tabletop:4"), rate=10.0) as source:
        frames = list(islice(source, 2))
        again = next(iter(source))
        assert source.length == 90 and source.rate == 10.0
    for frame, picture in zip(frames, iter_frames("tabletop", 4, 90, rate=10.0), strict=False):
        np.testing.assert_array_equal(frame.image, picture.image)
        np.testing.assert_array_equal(frame.K, picture.view.K)
    assert [frame.stamp_ns for frame in frames] == [0, 100_000_000] and frames[0].frame_id == "camera_optical_frame"
    np.testing.assert_array_equal(again.image, frames[0].image)


def test_playback_has_images_and_the_true_camera_at_the_rate(monkeypatch):
    monkeypatch.setattr("easi3r_lab.synthetic.source._FRAMES", 2)
    with open_playback(Path("synthetic:static:1"), rate=20.0) as messages:
        assert messages.topics == {"image": "sensor_msgs/msg/Image", "camera_info": "sensor_msgs/msg/CameraInfo"}
        published = list(messages)
    assert [message.topic for message in published] == ["camera_info", "image"] * 2
    assert published[2].time_ns - published[0].time_ns == 50_000_000


def test_a_player_does_not_wait_for_the_renderer(monkeypatch):
    """Every frame is rendered when playback is opened, and none twice."""
    rendered = []

    def counted(*arguments, **options):
        for picture in iter_frames(*arguments, **options):
            rendered.append(picture.index)
            yield picture

    monkeypatch.setattr("easi3r_lab.synthetic.source._FRAMES", 3)
    monkeypatch.setattr("easi3r_lab.synthetic.source.iter_frames", counted)
    with open_playback(Path("synthetic:static:1")) as messages:
        assert rendered == [0, 1, 2]
        assert len(list(messages)) == 6 and rendered == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("synthetic:moon", ["moon", "walkers", "traffic"]),
        ("synthetic:", ["walkers"]),
        ("synthetic:walkers:two", ["'two'", "whole number"]),
    ],
)
def test_wrong_names_say_what_to_write(name, words):
    with pytest.raises(SourceError) as error:
        open_source(name)
    assert all(word in str(error.value) for word in words)


def test_options_of_recordings_are_refused():
    for options in ({"topic": "/image"}, {"camera_info": "camera.yaml"}):
        with pytest.raises(SourceError, match="brings its own camera"):
            open_source("synthetic:walkers", **options)
    with pytest.raises(SourceError, match="the frame rate must be from 0.001 to"):
        open_source("synthetic:walkers", rate=-1.0)
