"""Bags, videos and image folders as frames: pixels, stamps, calibration, and a clear error for what is unreadable."""

import logging
import math
import os
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
from easi3r_ros.io.sources import Losses, stamp_at

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


def broken_bag(folder, broken, count: int = 5):
    """Compressed images, of which the numbers in `broken` are truncated."""
    kind, messages = "sensor_msgs/msg/CompressedImage", []
    for index in range(count):
        message = jpeg_image(index)
        if index in broken:
            message.data = message.data[:60]
        messages.append(("/cam/image_raw/compressed", kind, stamp(index), message))
        messages.append(("/cam/camera_info", INFO, stamp(index), camera_info(index)))
    return write_bag(folder, messages)


def test_a_broken_image_in_a_bag_is_left_out_and_counted(tmp_path, caplog):
    with open_source(broken_bag(tmp_path / "bag", {1, 3})) as source:
        frames = list(source)
        assert source.losses == Losses(left_out=2) and source.length == 5
        assert str(source.losses) == "2 damaged pictures left out"
        assert [frame.index for frame in source] == [0, 2, 4] and source.losses.left_out == 2
    assert [(frame.index, frame.stamp_ns) for frame in frames] == [(index, stamp(index)) for index in (0, 2, 4)]
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "compressed image (format 'png') is truncated: it ends after 60 bytes"
    ] * 2  # not again in the second pass
    assert "/cam/image_raw/compressed, image 1 (recorded at" in caplog.text


def test_a_message_that_is_no_image_any_more_is_left_out(tmp_path, monkeypatch, caplog):
    """Bytes of a message can be damaged although the bag is whole; also those of a camera_info."""
    with open_source(camera_bag(tmp_path / "bag", 4)) as source:
        real, count = source._reader.deserialize, {}

        def deserialize(raw, kind):
            count[kind] = count.get(kind, 0) + 1
            return real(raw[: len(raw) // 2] if count[kind] == 3 else raw, kind)

        monkeypatch.setattr(source._reader, "deserialize", deserialize)
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 1, 3] and source.losses.left_out == 1
    assert all((frame.K == K).all() for frame in frames)
    assert "/cam/camera_info: the message is damaged" in caplog.text and "the one before it is used" in caplog.text


@pytest.mark.parametrize("broken, words", [(range(5), "none of the pictures"), (range(30), "The 19 before it cannot")])
def test_nothing_but_broken_images_is_an_error(tmp_path, broken, words):
    with open_source(broken_bag(tmp_path / "bag", broken, len(broken))) as source, pytest.raises(SourceError) as error:
        list(source)
    assert words in str(error.value) and "is truncated: it ends after 60 bytes" in str(error.value)


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


def test_broken_image_files_are_left_out_and_counted(tmp_path, caplog):
    folder = image_folder(tmp_path / "images", [f"{index}.jpg" for index in range(9)])
    (folder / "1.jpg").write_bytes(b"nothing")
    (folder / "3.jpg").write_bytes((folder / "3.jpg").read_bytes()[:-40])  # OpenCV would fill the rest with grey
    (folder / "5.jpg").write_bytes(b"")
    (folder / "7.jpg").unlink()
    (folder / "7.jpg").mkdir()
    with open_source(folder, rate=10.0) as source:
        frames = list(source)
        assert source.losses.left_out == 4
    assert [frame.index for frame in frames] == [0, 2, 4, 6, 8]
    assert frames[-1].stamp_ns == 800_000_000  # a picture that is missing does not move the others
    for name, why in ((1, "cannot be decoded"), (3, "is truncated"), (5, "is empty"), (7, "Is a directory")):
        assert f"{name}.jpg' is left out: " in caplog.text and why in caplog.text


def test_hidden_files_are_no_pictures(tmp_path):
    folder = image_folder(tmp_path / "images", ["0.png", "1.png"])
    (folder / "._0.png").write_bytes(b"resource fork")
    (folder / ".hidden.png").write_bytes(b"")
    with open_source(folder) as source:
        assert source.length == len(list(source)) == 2 and not source.losses


def test_a_flood_of_damage_does_not_flood_the_log(tmp_path, caplog):
    folder = image_folder(tmp_path / "images", ["0.png"])
    for index in range(1, 40):
        (folder / f"{index}.png").write_bytes(b"")
    with open_source(folder) as source:
        assert len(list(source)) == 1 and source.losses.left_out == 39
    assert len(caplog.records) == 6 and "only counted" in caplog.text


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
    os.mkfifo(tmp_path / "pipe.mp4")
    for arguments, words in [
        ({"path": tmp_path / "nothing"}, "does not exist"),
        ({"path": tmp_path / "empty"}, "neither a bag"),
        ({"path": tmp_path / "old.bag"}, "ROS 1 bag"),
        ({"path": tmp_path / "pipe.mp4"}, "is no file: a camera or a stream is for the node"),
        ({"path": bag / "metadata.yaml"}, f"only describes a bag: name its folder, '{bag}'"),
        ({"path": clip, "topic": "/cam"}, "no topics"),
        ({"path": bag, "rate": 3.0}, "its own stamps"),
    ]:
        with pytest.raises(SourceError, match=words):
            open_source(**arguments)


@pytest.mark.parametrize("rate", [math.inf, -math.inf, math.nan, -1.0, 0.0, 1e-9, 1e300])
@pytest.mark.parametrize("kind", ["folder", "video", "synthetic"])
def test_a_rate_that_makes_no_stamps_is_refused(tmp_path, rate, kind):
    path = "synthetic:static"
    if kind == "folder":
        path = image_folder(tmp_path / "images", ["0.png"])
    if kind == "video":
        path = write_video(tmp_path / "clip.mp4")
    with pytest.raises(SourceError, match="the frame rate must be from 0.001 to 1,000,000 per second, got"):
        open_source(path, rate=rate)


def test_a_folder_of_mixed_things_is_refused_with_what_is_in_it(tmp_path):
    recording = (camera_bag(tmp_path / "bag", 1) / "bag.mcap").read_bytes()
    for name, contents, words in [
        ("a", ["0.png", "1.png", "x.mcap"], "holds 2 images and 'x.mcap': name one file"),
        ("b", ["0.png", "CLIP.MP4"], "holds 1 image and 'CLIP.MP4'"),
        ("c", ["x.mcap", "clip.mov"], "holds 'x.mcap' and 'clip.mov'"),
        ("d", ["1.mp4", "2.mp4", "3.mp4", "4.mp4"], "nor images: name the video itself, such as .*'3.mp4' and 1 more"),
        ("e", ["notes.txt", "run1/0.png", "run2/metadata.yaml", "other/x.txt"], "its folders, such as 'run1', 'run2'$"),
        ("f", ["notes.txt"], "neither a bag .* nor images$"),
    ]:
        for content in contents:
            path = tmp_path / name / content
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(recording)
        with pytest.raises(SourceError, match=words):
            open_source(tmp_path / name)
    (tmp_path / "bag" / "preview.png").write_bytes(b"")  # a bag with its metadata is a bag, whatever else is there
    (tmp_path / "bag" / "._bag.mcap").write_bytes(b"")
    with open_source(tmp_path / "bag") as source:
        assert len(list(source)) == 1
