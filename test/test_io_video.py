"""Videos: the times of their frames, how they are turned, and what becomes of damaged ones."""

import importlib
import logging
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from helpers_io import HEIGHT, WIDTH, K, encode_video, picture, tag_display_matrix, write_video

from easi3r_ros.io import SourceError, open_source
from easi3r_ros.io.sources import Losses, stamp_at
from easi3r_ros.io.video_source import Turn

# As a phone records: short exposures by day, long ones in the dark, a hiccup.
VARIABLE = [0, 3003, 6006, 9009, 15015, 21021, 21500, 60000, 63003]
LONG = [3000 * index for index in range(60)]
# (a, b, c, d) of x' = a x + c y, y' = b x + d y, in the images' axes.
QUARTERS = {"clockwise": (0, 1, -1, 0), "half": (-1, 0, 0, -1), "counterclockwise": (0, -1, 1, 0)}
MIRRORED = {"mirror": (-1, 0, 0, 1), "upside down mirror": (1, 0, 0, -1), "transposed": (0, 1, 1, 0)}


def frames_of(path, **options):
    with open_source(path, **options) as source:
        return list(source), source.losses


def assert_shows(frame, index: int, size=(WIDTH, HEIGHT)):
    assert np.abs(frame.image.astype(int) - picture(index, *size)).mean() < 4


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.ts"])
@pytest.mark.parametrize("reordered", ["0", "3"])
def test_stamps_are_the_file_s_own_times(tmp_path, name, reordered):
    frames, losses = frames_of(encode_video(tmp_path / name, VARIABLE, bf=reordered))
    assert [frame.stamp_ns for frame in frames] == [tick * 1_000_000_000 // 90_000 for tick in VARIABLE]
    for index, frame in enumerate(frames):
        assert frame.index == index
        assert_shows(frame, index)
    assert not losses


def test_stamps_begin_with_the_first_frame(tmp_path):
    """A transport stream may begin hours after its zero."""
    frames, _ = frames_of(encode_video(tmp_path / "clip.ts", [90_000 * 3600 * 5 + tick for tick in VARIABLE]))
    assert [frame.stamp_ns for frame in frames] == [tick * 1_000_000_000 // 90_000 for tick in VARIABLE]


def test_a_rate_given_counts_instead_of_the_times(tmp_path):
    clip = encode_video(tmp_path / "clip.mp4", VARIABLE)
    with open_source(clip, rate=10.0) as source:
        assert source.rate == 10.0
        assert [frame.stamp_ns for frame in source] == [stamp_at(index, 10.0) for index in range(len(VARIABLE))]
    with open_source(encode_video(tmp_path / "even.mp4", LONG)) as source:
        assert source.rate == 30.0


@pytest.mark.parametrize("codec, reordered", [("libx264", "0"), ("libx264", "3"), ("mpeg4", "2")])
def test_avi_keeps_no_times_but_its_order(tmp_path, codec, reordered):
    frames, losses = frames_of(encode_video(tmp_path / "clip.avi", range(12), codec, base=30, bf=reordered))
    assert [frame.stamp_ns for frame in frames] == [stamp_at(index, 30.0) for index in range(12)] and not losses


def test_frames_without_times_get_an_assumed_rate_that_is_said(tmp_path, caplog):
    clip = encode_video(tmp_path / "clip.h264", [3000 * index for index in range(6)])
    frames, _ = frames_of(clip)
    assert [frame.stamp_ns for frame in frames] == [stamp_at(index, 25.0) for index in range(6)]
    assert "gives its frames no times: a constant 25 per second is assumed" in caplog.text
    caplog.clear()
    frames, _ = frames_of(clip, rate=50.0)
    assert frames[5].stamp_ns == 100_000_000 and not caplog.text


def test_a_time_that_does_not_advance_is_left_out(tmp_path):
    """Matroska counts milliseconds: here two frames fall into one."""
    frames, losses = frames_of(encode_video(tmp_path / "clip.mkv", [0, 3000, 3010, 6000]))
    assert [frame.index for frame in frames] == [0, 1, 3] and losses.left_out == 1


def test_recordings_joined_without_care_are_refused_unless_a_rate_is_given(tmp_path):
    clip = encode_video(tmp_path / "clip.ts", [3000 * index for index in range(60)], g="10")
    (tmp_path / "twice.ts").write_bytes(clip.read_bytes() * 2)
    with pytest.raises(SourceError, match=r"twice.ts': at frame 60 the time goes back by 2.0 s: split .* a frame rate"):
        frames_of(tmp_path / "twice.ts")
    assert len(frames_of(tmp_path / "twice.ts", rate=30.0)[0]) == 120


@pytest.mark.parametrize("matrix", [*QUARTERS.values(), *MIRRORED.values()], ids=[*QUARTERS, *MIRRORED])
def test_frames_are_upright(tmp_path, matrix):
    clip = tag_display_matrix(encode_video(tmp_path / "clip.mp4", [0, 3000]), *matrix)
    a, b, c, d = matrix
    frames, _ = frames_of(clip)
    stored = picture(1).astype(int)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    x, y = a * columns + c * rows, b * columns + d * rows
    upright = np.empty((np.ptp(y) + 1, np.ptp(x) + 1, 3))
    upright[y - y.min(), x - x.min()] = stored
    assert frames[1].image.shape == upright.shape and np.abs(frames[1].image - upright).mean() < 4


@pytest.mark.parametrize("matrix", QUARTERS.values(), ids=QUARTERS)
def test_frames_are_turned_as_opencv_turns_them(tmp_path, matrix):
    """What runs were used to, before they had the times of their frames."""
    clip = tag_display_matrix(encode_video(tmp_path / "clip.mp4", [0, 3000]), *matrix)
    theirs = cv2.cvtColor(cv2.VideoCapture(str(clip)).read()[1], cv2.COLOR_BGR2RGB)
    ours = frames_of(clip)[0][0].image
    assert ours.shape == theirs.shape and np.abs(ours.astype(int) - theirs).mean() < 4


def calibration(path, size=(WIDTH, HEIGHT)):
    path.write_text(f"image_width: {size[0]}\nimage_height: {size[1]}\ncamera_matrix: {{data: {K.ravel().tolist()}}}\n")
    return path


@pytest.mark.parametrize("matrix", [QUARTERS["clockwise"], QUARTERS["counterclockwise"]])
def test_a_calibration_of_the_stored_images_is_turned_with_them_and_that_is_said_once(tmp_path, caplog, matrix):
    clip = tag_display_matrix(encode_video(tmp_path / "clip.mp4", [0, 3000, 6000]), *matrix)
    frames, _ = frames_of(clip, camera_info=calibration(tmp_path / "camera.yaml"))
    a, b, c, d = matrix
    point = np.array([0.3, -0.2, 2.0])
    u, v, _ = K @ point / point[2]
    x, y = a * u + c * v, b * u + d * v
    x, y = x + (HEIGHT - 1 if c < 0 else 0), y + (WIDTH - 1 if b < 0 else 0)
    turned = np.array([a * point[0] + c * point[1], b * point[0] + d * point[1], point[2]])  # the camera's axes too
    np.testing.assert_allclose((frames[2].K @ turned / turned[2])[:2], [x, y])
    assert frames[2].K[0, 0] > 0 and frames[2].K[1, 1] > 0
    assert caplog.text.count("the calibration is that of the stored ones and turned with them") == 1


@pytest.mark.parametrize("name, size", [("clockwise", (HEIGHT, WIDTH)), ("half", (WIDTH, HEIGHT))])
def test_a_calibration_of_the_upright_images_is_taken_as_it_is(tmp_path, caplog, name, size):
    clip = tag_display_matrix(encode_video(tmp_path / "clip.mp4", [0, 3000]), *QUARTERS[name])
    frames, _ = frames_of(clip, camera_info=calibration(tmp_path / "camera.yaml", size))
    np.testing.assert_array_equal(frames[0].K, K)
    assert caplog.text.count("taken as that of the upright images") == 1


def test_a_calibration_of_another_size_is_refused_at_once(tmp_path):
    clip = encode_video(tmp_path / "clip.mp4", [0, 3000])
    with pytest.raises(SourceError, match="the images are 64x48, the calibration is for 640x480"):
        open_source(clip, camera_info=calibration(tmp_path / "camera.yaml", (640, 480)))


def test_a_turn_of_intrinsics_twice_is_none():
    half = Turn(False, True, True)
    np.testing.assert_allclose(half.intrinsics(half.intrinsics(K, (64, 48)), (64, 48)), K)


def damaged(path, clip, at: float, count: int):
    data = bytearray(clip.read_bytes())
    start = int(len(data) * at)
    data[start : start + count] = np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    return path


def test_damage_in_the_middle_costs_its_frames_alone(tmp_path, caplog):
    clip = encode_video(tmp_path / "clip.mp4", LONG, muxer={"movflags": "faststart"}, g="10")
    frames, losses = frames_of(damaged(tmp_path / "broken.mp4", clip, 0.5, 100))
    assert losses.left_out == 60 - len(frames) > 0 and not losses.breaks_off
    assert frames[-1].index == 59 and frames[-1].stamp_ns == 59 * 1_000_000_000 // 30
    assert_shows(frames[-1], 59)  # the frames after the damage keep their numbers and times
    assert "is left out: " in caplog.text


def test_damage_that_hides_frames_from_the_container_is_still_damage(tmp_path):
    """Matroska goes on with its next cluster: how many frames were in between, nothing says."""
    clip = encode_video(tmp_path / "clip.mkv", LONG, g="10")
    frames, losses = frames_of(damaged(tmp_path / "broken.mkv", clip, 0.5, 100))
    assert losses and len(frames) > 10


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_truncated_file_gives_what_it_has_and_says_so(tmp_path, caplog, name):
    clip = encode_video(tmp_path / name, LONG, muxer={"movflags": "faststart"} if name == "clip.mp4" else {}, g="10")
    (tmp_path / f"cut_{name}").write_bytes(clip.read_bytes()[: int(clip.stat().st_size * 0.7)])
    with open_source(tmp_path / f"cut_{name}") as source:
        length, frames = source.length, list(source)
        again = list(source)
    assert 10 < len(frames) == len(again) < 55 and abs(length - len(frames)) <= 2  # not the 60 that it states
    assert source.losses.breaks_off and caplog.text.count("breaks off after") == 1


def test_whole_files_are_not_called_broken(tmp_path):
    for name in ("clip.mp4", "clip.mkv", "clip.ts", "clip.avi", "clip.mov", "clip.webm"):
        codec = "libvpx" if name.endswith("webm") else "mpeg4" if name.endswith("avi") else "libx264"
        ticks, base = (range(30), 30) if name.endswith("avi") else (LONG[:30], 90_000)
        with open_source(encode_video(tmp_path / name, ticks, codec, base=base)) as source:
            assert source.length == len(list(source)) == 30 and source.losses == Losses(), name


def test_a_long_last_frame_is_no_missing_end(tmp_path):
    """A recording of a screen on which nothing happens."""
    frames, losses = frames_of(encode_video(tmp_path / "clip.mp4", [0, 3000, 6000, 900_000]))
    assert len(frames) == 4 and not losses


def test_of_several_streams_the_largest_is_used_and_that_is_said(tmp_path, caplog):
    """As drones record a preview beside the video."""
    with av.open(str(tmp_path / "drone.mp4"), "w") as container:
        streams = [container.add_stream("libx264", rate=30) for _ in range(2)]
        for stream, size in zip(streams, [(32, 32), (WIDTH, HEIGHT)], strict=True):
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for stream in streams:
            for index in range(3):
                image = picture(index, stream.width, stream.height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    frames, losses = frames_of(tmp_path / "drone.mp4")
    assert [frame.image.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * 3 and not losses
    assert caplog.text.count("holds 2 video streams: the largest, 64 x 48, is used") == 1


def test_a_very_large_file_is_not_read_through_for_its_length(tmp_path, monkeypatch):
    monkeypatch.setattr("easi3r_ros.io.video_source.COUNTABLE", 100)
    with open_source(encode_video(tmp_path / "clip.mp4", [0, 3000])) as source:
        assert source.length is None


def sound(path, with_cover: bool):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3" if path.suffix == ".mp3" else "aac", rate=44100)
        cover = container.add_stream("mjpeg", rate=1) if with_cover else None
        if cover:
            cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(picture(0), format="rgb24").reformat(format="yuvj420p")
            container.mux(cover.encode(image))
            container.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4608), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        for part in (frame, None):
            container.mux(stream.encode(part))
    return path


@pytest.mark.parametrize("name, with_cover", [("voice.m4a", False), ("voice.mp4", False), ("song.mp3", True)])
def test_sound_without_pictures_is_refused(tmp_path, name, with_cover):
    if with_cover and not hasattr(av.stream, "Disposition"):
        pytest.skip("this PyAV cannot write a cover")
    with pytest.raises(SourceError, match=f"{name}' holds sound and no moving picture"):
        open_source(sound(tmp_path / name, with_cover))


def test_a_video_without_frames_is_refused(tmp_path):
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match="none.mp4' holds no (frame that can be decoded|video stream)"):
        open_source(tmp_path / "none.mp4")
    with pytest.raises(SourceError, match="empty.mp4' is an empty file"):
        open_source(tmp_path / "empty.mp4")


def test_what_only_looks_like_a_protocol_is_a_file(tmp_path):
    assert len(frames_of(encode_video(tmp_path / "concat:12:30.mp4", [0, 3000]))[0]) == 2


def test_a_playlist_opens_nothing_but_files(tmp_path):
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1\nhttp://127.0.0.1:9/clip.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(SourceError, match="list.m3u8'"):
        open_source(tmp_path / "list.m3u8")


def test_without_pyav_it_is_said_what_to_install(tmp_path, monkeypatch):
    clip, real = write_video(tmp_path / "clip.mp4"), importlib.import_module

    def missing(name, *rest):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SourceError, match="reading a video needs PyAV: pip install 'av>=12'"):
        open_source(clip)


def test_opening_is_quiet(tmp_path, caplog, capfd):
    """What FFmpeg itself says about a broken file, our own words say better."""
    (tmp_path / "text.mp4").write_text("no video at all")
    with caplog.at_level(logging.WARNING), pytest.raises(SourceError):
        open_source(tmp_path / "text.mp4")
    assert not caplog.records and not any(capfd.readouterr())
