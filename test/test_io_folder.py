"""Folders of images: strangers among them, times in their names, EXIF turns, JPEGs that end too early."""

import cv2
import numpy as np
import pytest
from helpers_io import HEIGHT, WIDTH, picture
from PIL import Image

from easi3r_ros.io import folder_names, open_source
from easi3r_ros.io.folder_names import stamps_in
from easi3r_ros.io.sources import SourceError
from easi3r_ros.messages.images import ConversionError, rgb_from_compressed
from easi3r_ros.messages.message_types import Header
from easi3r_ros.messages.stand_ins import message_class

CALIBRATION = "image_width: {}\nimage_height: {}\ncamera_matrix: {{data: [70, 0, 40, 0, 80, 20, 0, 0, 1]}}\n"


def fill(folder, names, images=None):
    for index, name in enumerate(names):
        image = picture(index) if images is None else images[index]
        cv2.imwrite(str(folder / name), image)
    return folder


def read(folder, **options):
    with open_source(folder, **options) as source:
        return list(source), source.losses


class TestStrangers:
    def test_depth_beside_colour(self, tmp_path, caplog):
        fill(tmp_path, [f"{i:04d}.png" for i in range(4)])
        fill(tmp_path, [f"{i:04d}_depth.png" for i in range(4)], [np.full((HEIGHT, WIDTH), 900, np.uint16)] * 4)
        fill(tmp_path, [f"mask-{i}.png" for i in range(2)])
        frames, losses = read(tmp_path)
        assert len(frames) == 4 and not losses
        assert "0000_depth.png, 0001_depth.png, 0002_depth.png and 3 more left out" in caplog.text

    def test_depth_alone_is_what_was_asked_for(self, tmp_path):
        assert len(read(fill(tmp_path, ["depth_1.png", "depth_2.png"]))[0]) == 2

    def test_formats_that_cannot_be_read_are_told_and_counted(self, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(folder_names, "reads_heif", lambda: False)
        fill(tmp_path, [f"{i}.png" for i in range(3)])
        for name in ("3.HEIC", "4.heic", "5.dng", ".6.heic"):
            (tmp_path / name).write_bytes(b"ftypheic")
        frames, losses = read(tmp_path)
        assert len(frames) == 3 and losses.left_out == 3
        assert "3.HEIC, 4.heic, 5.dng left out" in caplog.text and "pillow-heif" in caplog.text

    def test_nothing_but_such(self, tmp_path, monkeypatch):
        monkeypatch.setattr("easi3r_ros.io.opener.reads_heif", lambda: False)
        (tmp_path / "1.HEIC").write_bytes(b"ftypheic")
        with pytest.raises(SourceError, match=r"'1.HEIC' cannot be read here; pip install pillow-heif"):
            open_source(tmp_path)

    def test_heic_where_the_library_is(self, tmp_path):
        pillow_heif = pytest.importorskip("pillow_heif")
        for index in range(2):
            pillow_heif.from_pillow(Image.fromarray(picture(index))).save(tmp_path / f"{index}.HEIC", quality=95)
        frames, losses = read(tmp_path)
        assert not losses and np.abs(frames[1].image.astype(int) - picture(1)).mean() < 6
        (tmp_path / "2.heic").write_bytes(b"....ftypheic")
        assert read(tmp_path)[1].left_out == 1

    def test_several_kinds_are_told(self, tmp_path, caplog):
        fill(tmp_path, ["left_1.png", "left_2.png", "right_1.png", "right_2.png"])
        assert len(read(tmp_path)[0]) == 4 and "left_# (2), right_# (2)" in caplog.text

    def test_of_macos(self, tmp_path):
        fill(tmp_path, ["1.png", "2.png"])
        (tmp_path / "._1.png").write_bytes(b"\0\5\x16\7")
        frames, losses = read(tmp_path)
        assert len(frames) == 2 and not losses


class TestTimes:
    @pytest.mark.parametrize(
        ("names", "stamps"),
        [
            (["1305031102.175304", "1305031102.211214"], [1305031102175304000, 1305031102211214000]),
            (["1403636579763555584", "1403636579813555456"], [1403636579763555584, 1403636579813555456]),
            (["1403636579763555", "1403636579813555"], [1403636579763555000, 1403636579813555000]),
            (["0.10", "0.05"], [100_000_000, 50_000_000]),
            (["0001", "0002"], None),
            (["1305031102.175304", "last"], None),
            (["1.10", "1.10"], None),
            (["1305031102.175304"], None),
        ],
    )
    def test_in_names(self, names, stamps):
        assert stamps_in(names) == stamps

    def test_images_come_in_the_order_of_their_times(self, tmp_path):
        fill(tmp_path, ["10.5.png", "9.25.png", "10.25.png"])
        frames, _ = read(tmp_path)
        assert [frame.stamp_ns for frame in frames] == [9_250_000_000, 10_250_000_000, 10_500_000_000]
        with open_source(tmp_path) as source:
            assert source.rate == pytest.approx(1.0)

    def test_a_rate_counts_instead(self, tmp_path):
        frames, _ = read(fill(tmp_path, ["10.50.png", "10.75.png"]), rate=10.0)
        assert [frame.stamp_ns for frame in frames] == [0, 100_000_000]


class TestTurns:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_turns_image_and_calibration_together(self, tmp_path, caplog, orientation):
        upright = picture(3)
        upright[:8, :8] = (255, 0, 0)
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright),  # what a viewer turns clockwise
            7: np.rot90(upright, 2).transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in "ab":
            Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"{name}.png", exif=exif)
        height, width = stored.shape[:2]
        calibration = tmp_path / "camera.yaml"
        calibration.write_text(CALIBRATION.format(width, height))
        frames, _ = read(tmp_path, camera_info=calibration)
        assert all(np.array_equal(frame.image, upright) for frame in frames)
        fx, fy = (80, 70) if orientation >= 5 else (70, 80)
        assert (frames[0].K[0, 0], frames[0].K[1, 1]) == (fx, fy)
        assert len(caplog.records) == (orientation != 1), "said once"


def half_a_jpeg():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    data = cv2.imencode(".jpg", cv2.resize(image, (320, 240)))[1].tobytes()
    return data, data[: len(data) // 2] + b"\xff\xd9"


def test_a_jpeg_whose_pixels_end_early(tmp_path, caplog):
    whole, half = half_a_jpeg()
    bars = cv2.imencode(".jpg", np.pad(np.full((40, 320, 3), 99, np.uint8), ((100, 100), (0, 0), (0, 0))))[1].tobytes()
    for name, data in {"0.jpg": whole, "1.jpg": half, "2.jpg": whole, "3.jpg": bars}.items():
        (tmp_path / name).write_bytes(data)
    frames, losses = read(tmp_path)
    assert [frame.index for frame in frames] == [0, 2, 3] and losses.left_out == 1
    assert "its pixels end before the image does" in caplog.text
    message = message_class("sensor_msgs/msg/CompressedImage")(header=Header(), format="jpeg", data=list(half))
    with pytest.raises(ConversionError, match="its pixels end before the image does"):
        rgb_from_compressed(message)
