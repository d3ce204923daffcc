"""Bags, videos and image folders as frames: pixels, stamps, calibration, and a clear error for what is unreadable."""

import logging
import shutil

import cv2
import numpy as np
import pytest
from helpers_io import (
    FRAME_ID,
    HEIGHT,
    PERIOD,
    WIDTH,
    K,
    camera_bag,
    camera_info,
    jpeg_image,
    picture,
    raw_image,
    stamp,
    write_bag,
    write_video,
)
from rosbags.rosbag2 import StoragePlugin

from easi3r_ros.io import SourceError, open_source
from easi3r_ros.io.sources import stamp_at

IMAGE, INFO, STRING = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "std_msgs/msg/String"


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("image", [raw_image, jpeg_image])
def test_a_bag_gives_its_images_exactly(tmp_path, plugin, image):
    bag = camera_bag(tmp_path / "bag", 5, plugin, image)
    with open_source(bag) as source:
        frames = list(source)
        assert source.length == 5
        assert source.rate == pytest.approx(1e9 / PERIOD)
        assert set(source.topics.values()) >= {INFO}
    assert [frame.index for frame in frames] == list(range(5))
    assert [frame.stamp_ns for frame in frames] == [stamp(index) for index in range(5)]
    assert {frame.frame_id for frame in frames} == {FRAME_ID}
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(index))
        np.testing.assert_array_equal(frame.K, K)  # the first image too, although its camera_info comes after it


def test_a_bag_can_be_read_again_and_as_a_single_file(tmp_path):
    bag = camera_bag(tmp_path / "bag", 3)
    with open_source(bag / "bag.mcap") as source:
        assert [frame.index for frame in source] == [frame.index for frame in source] == [0, 1, 2]


def test_a_bag_without_metadata_is_read_from_its_storage(tmp_path):
    bag = camera_bag(tmp_path / "bag", 3)
    (bag / "metadata.yaml").unlink()
    with open_source(bag) as source:
        assert len(list(source)) == 3


def test_the_image_topic_must_be_chosen_if_there_are_several(tmp_path):
    bag = write_bag(
        tmp_path / "bag", [("/left/image", IMAGE, 1, raw_image(0)), ("/right/image", IMAGE, 2, raw_image(1))]
    )
    with pytest.raises(
        SourceError, match=r"2 image topics: choose one with --topic[\s\S]*/left/image +sensor_msgs/msg/Image"
    ):
        open_source(bag)
    with open_source(bag, topic="/right/image") as source:
        assert [frame.stamp_ns for frame in source] == [stamp(1)]
    with pytest.raises(SourceError, match="no topic '/up/image'"):
        open_source(bag, topic="/up/image")


def test_a_topic_that_is_no_image_is_refused(tmp_path):
    bag = camera_bag(tmp_path / "bag", 1)
    with pytest.raises(SourceError, match="'/cam/camera_info' .* is sensor_msgs/msg/CameraInfo, not an image"):
        open_source(bag, topic="/cam/camera_info")


def test_a_bag_without_images_says_what_it_has(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/cam/camera_info", INFO, 1, camera_info(0))])
    with pytest.raises(SourceError, match=r"no image topic[\s\S]*/cam/camera_info"):
        open_source(bag)


def test_an_empty_bag_is_refused(tmp_path):
    with pytest.raises(SourceError, match="is an empty bag"):
        open_source(write_bag(tmp_path / "bag", []))


def test_a_calibration_for_another_size_is_left_out_with_a_warning(tmp_path, caplog):
    info = camera_info(0)
    info.width = 2 * WIDTH
    bag = write_bag(tmp_path / "bag", [("/cam/camera_info", INFO, 1, info), ("/cam/image_raw", IMAGE, 2, raw_image(0))])
    with caplog.at_level(logging.WARNING), open_source(bag) as source:
        assert [frame.K for frame in source] == [None]
    assert "camera_info is for images of 128 x 48" in caplog.text


@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_truncated_bag_is_one_clear_error(tmp_path, plugin, part):
    bag = camera_bag(tmp_path / "bag", 40, plugin)
    file = next(path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(SourceError, match="damaged, truncated"), open_source(bag) as source:
        list(source)


def test_a_broken_image_says_which(tmp_path):
    broken = jpeg_image(1)
    broken.data = broken.data[:60]
    kind = "sensor_msgs/msg/CompressedImage"
    messages = [("/cam/image_raw/compressed", kind, stamp(i), m) for i, m in enumerate([jpeg_image(0), broken])]
    bag = write_bag(tmp_path / "bag", messages)
    with open_source(bag) as source, pytest.raises(SourceError, match=rf"image 1 \(stamp {stamp(1)} ns\): .*truncated"):
        list(source)


@pytest.mark.parametrize("rate", [25.0, 30000 / 1001])
def test_a_video_gives_its_frames_with_stamps_from_its_rate(tmp_path, rate):
    with open_source(write_video(tmp_path / "clip.mp4", 6, rate), frame_id="eye") as source:
        frames = list(source)
        assert source.length == 6 and source.rate == pytest.approx(rate, rel=1e-5)  # MP4 rounds it
        assert [frame.stamp_ns for frame in frames] == [stamp_at(index, source.rate) for index in range(6)]
    assert {frame.frame_id for frame in frames} == {"eye"}
    assert all(np.abs(frame.image.astype(int) - picture(i)).mean() < 6 for i, frame in enumerate(frames))  # lossy, RGB


def test_stamps_are_exact_whole_nanoseconds():
    assert stamp_at(3, 24.0) == 125_000_000
    assert stamp_at(1, 24.0) == 41_666_666
    assert stamp_at(30_000 * 3600, 30000 / 1001) == 1001 * 3600 * 1_000_000_000  # no drift in an hour


def test_a_rate_given_counts_instead_of_the_video_s(tmp_path):
    with open_source(write_video(tmp_path / "clip.mp4", 3), rate=10.0) as source:
        assert [frame.stamp_ns for frame in source] == [0, 100_000_000, 200_000_000]


def test_files_that_are_no_video_are_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video at all")
    clip = write_video(tmp_path / "clip.mp4", 30)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:2000])
    for name in ("text.mp4", "cut.mp4"):
        with pytest.raises(SourceError, match="cannot be decoded as video"):
            open_source(tmp_path / name)


def image_folder(folder, names, size=(WIDTH, HEIGHT)):
    folder.mkdir()
    for index, name in enumerate(names):
        cv2.imwrite(str(folder / name), cv2.cvtColor(picture(index, *size), cv2.COLOR_RGB2BGR))
    return folder


def test_an_image_folder_is_sorted_as_people_count(tmp_path):
    folder = image_folder(tmp_path / "images", ["frame2.png", "frame10.png", "frame1.png"])
    (folder / "notes.txt").write_text("not an image")
    with open_source(folder, rate=20.0) as source:
        frames = list(source)
        assert source.length == 3
    for frame, written_as in zip(frames, [2, 0, 1], strict=True):
        np.testing.assert_array_equal(frame.image, picture(written_as))
    assert [frame.stamp_ns for frame in frames] == [0, 50_000_000, 100_000_000]


def test_a_broken_image_file_is_named(tmp_path):
    folder = image_folder(tmp_path / "images", ["0.png"])
    (folder / "1.png").write_bytes(b"nothing")
    with open_source(folder) as source, pytest.raises(SourceError, match="1.png' cannot be decoded"):
        list(source)


CALIBRATION = """
image_width: 64
image_height: 48
camera_name: test
camera_matrix: {rows: 3, cols: 3, data: [70, 0, 31.5, 0, 70, 23.5, 0, 0, 1]}
"""


def test_a_calibration_file_is_used_and_must_fit(tmp_path):
    folder = image_folder(tmp_path / "images", ["0.png"])
    (tmp_path / "camera.yaml").write_text(CALIBRATION)
    with open_source(folder, camera_info=tmp_path / "camera.yaml") as source:
        np.testing.assert_array_equal(next(iter(source)).K, K)
    wide = image_folder(tmp_path / "wide", ["0.png"], (80, 48))
    with (
        open_source(wide, camera_info=tmp_path / "camera.yaml") as source,
        pytest.raises(SourceError, match="the images are 80x48, the calibration is for 64x48"),
    ):
        list(source)


@pytest.mark.parametrize("text", ["", "a: 1", "[1, 2", CALIBRATION.replace("70, 0, 31.5", "0, 0, 31.5")])
def test_a_file_that_is_no_calibration_is_refused(tmp_path, text):
    folder = image_folder(tmp_path / "images", ["0.png"])
    (tmp_path / "camera.yaml").write_text(text)
    with pytest.raises(SourceError, match="camera.yaml'.*(no camera calibration|focal lengths)"):
        open_source(folder, camera_info=tmp_path / "camera.yaml")


def test_what_is_not_there_or_makes_no_sense_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    bag, clip = camera_bag(tmp_path / "bag", 1), write_video(tmp_path / "clip.mp4")
    shutil.copy(clip, tmp_path / "old.bag")
    for arguments, words in [
        ({"path": tmp_path / "nothing"}, "does not exist"),
        ({"path": tmp_path / "empty"}, "neither a bag"),
        ({"path": tmp_path / "old.bag"}, "ROS 1 bag"),
        ({"path": clip, "topic": "/cam"}, "no topics"),
        ({"path": bag, "rate": 3.0}, "its own stamps"),
        ({"path": clip, "rate": -1.0}, "frame rate"),
    ]:
        with pytest.raises(SourceError, match=words):
            open_source(**arguments)
