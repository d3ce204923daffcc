"""Bags as they are found: killed recorders, wrong or missing metadata, files by content, which topic, whose K."""

import shutil
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
from helpers_io import K, camera_bag, make_result, picture, raw_image, stamp, write_bag
from rosbags.rosbag2 import StoragePlugin, Writer

from easi3r_ros.core.config import CloudConfig
from easi3r_ros.io import open_source
from easi3r_ros.io.bag_source import open_bag
from easi3r_ros.io.bag_writer import BagWriter
from easi3r_ros.io.salvage import ENDING, StorageFile
from easi3r_ros.io.sources import SourceError
from easi3r_ros.io.writers import OverlayWriter
from easi3r_ros.messages.conversions import image_message
from easi3r_ros.messages.stand_ins import serialize, typestore
from easi3r_ros.messages.status import BackboneInfo

PLUGINS = pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
IMAGE = "sensor_msgs/msg/Image"


def read(path, **options):
    with open_source(path, **options) as source:
        return list(source), source.losses


class TestMetadata:
    @PLUGINS
    @pytest.mark.parametrize("change", ["empty", "wrong", "none", "broken", "foreign"])
    def test_content_decides(self, tmp_path, plugin, change):
        bag = camera_bag(tmp_path / "bag", plugin=plugin)
        file = bag / "metadata.yaml"
        text = file.read_text()
        right = "mcap" if plugin is StoragePlugin.MCAP else "sqlite3"
        text = {
            "empty": text.replace(f"storage_identifier: {right}", "storage_identifier: ''"),
            "wrong": text.replace(f"storage_identifier: {right}", "storage_identifier: rosbag_v2"),
            "none": text,
            "broken": "{[",
            "foreign": "name: something else\n",
        }[change]
        file.write_text(text)
        if change == "none":
            file.unlink()
        assert len(read(bag)[0]) == 5

    @PLUGINS
    def test_any_name(self, tmp_path, plugin):
        bag = camera_bag(tmp_path / "bag", plugin=plugin)
        (storage,) = (item for item in bag.iterdir() if item.suffix in (".mcap", ".db3"))
        shutil.copy(storage, tmp_path / "download.bin")
        assert len(read(tmp_path / "download.bin")[0]) == 5

    def test_several_files_without_metadata(self, tmp_path):
        for name in ("a", "b"):
            camera_bag(tmp_path / name)
        (tmp_path / "both").mkdir()
        for name in ("a", "b"):
            shutil.copy(tmp_path / name / f"{name}.mcap", tmp_path / "both" / f"{name}.mcap")
        assert len(read(tmp_path / "both")[0]) == 10


class TestKilled:
    def test_what_was_written_until_then_is_read(self, tmp_path, caplog):
        bag = tmp_path / "bag"
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connection = writer.add_connection("/image", IMAGE, typestore=typestore())
            for index in range(6):
                writer.write(connection, stamp(index), serialize(raw_image(index)))
                writer.storage.close_chunk()
        (bag / "metadata.yaml").unlink()
        file = bag / "bag.mcap"
        data = file.read_bytes()
        sizes = sorted({len(data) * part // 100 for part in range(5, 100, 5)})
        counts = []
        for size in sizes:
            file.write_bytes(data[:size])
            try:
                frames, losses = read(bag)
            except SourceError as error:
                assert "damaged, truncated" in str(error) and not counts
                continue
            assert losses.breaks_off and np.array_equal(frames[0].image, picture(0))
            counts.append(len(frames))
        assert counts[0] == 1 and counts[-1] >= 5 and all(a <= b for a, b in pairwise(counts))
        assert "has no end, its recorder was killed" in caplog.text

    def test_our_own_bag_is_readable_at_any_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr("easi3r_ros.io.bag_writer.SAVE_PERIOD", 0.0)
        writer = BagWriter(tmp_path / "bag", CloudConfig(), BackboneInfo("classical", ""))
        for index in range(4):
            writer.write(make_result(index))
            shutil.copytree(tmp_path / "bag", tmp_path / f"copy{index}")
            assert StorageFile(tmp_path / f"copy{index}" / "bag.mcap").complete
            with closing(open_bag(tmp_path / f"copy{index}")) as reader:
                assert reader.topics["/easi3r/mask"].msgcount == index + 1
        writer.close()
        assert (tmp_path / "bag" / "bag.mcap").read_bytes().count(ENDING) == 0, "closed as usual"
        with closing(open_bag(tmp_path / "bag")) as reader:
            assert reader.topics["/easi3r/mask"].msgcount == 4

    def test_our_own_video_can_be_played_at_any_time(self, tmp_path):
        with OverlayWriter(tmp_path / "overlay.mp4", 25.0) as writer:
            for index in range(40):
                writer.write(make_result(index % 20).changed(frame=make_result(index).frame))
            shutil.copy(tmp_path / "overlay.mp4", tmp_path / "killed.mp4")
        assert len(read(tmp_path / "killed.mp4")[0]) >= 20
        frames, losses = read(tmp_path / "overlay.mp4")
        assert len(frames) == 40 and not losses


class TestTopics:
    def bag(self, folder, **topics):
        """topics: name -> images."""
        with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            for name, images in topics.items():
                connection = writer.add_connection(f"/{name}/image", IMAGE, typestore=typestore())
                for index, image in enumerate(images):
                    writer.write(connection, stamp(index), serialize(image))
        return folder

    def test_the_one_that_has_messages(self, tmp_path):
        bag = self.bag(tmp_path / "bag", a=[], b=[raw_image(0), raw_image(1)])
        with open_source(bag) as source:
            assert source.topic == "/b/image" and len(list(source)) == 2

    def test_colours_rather_than_depth(self, tmp_path, caplog):
        depth = image_message(np.ones((48, 64), np.float32), "32FC1", raw_image(0).header)
        with open_source(self.bag(tmp_path / "bag", depth=[depth] * 3, colour=[raw_image(0)])) as source:
            assert source.topic == "/colour/image" and "of 2 image topics" in caplog.text

    def test_two_cameras_must_be_chosen_from(self, tmp_path):
        bag = self.bag(tmp_path / "bag", a=[raw_image(0)], b=[raw_image(0)])
        with pytest.raises(SourceError, match="choose one with --topic"):
            open_source(bag)
        with open_source(bag, topic="/a/image") as source:
            assert len(list(source)) == 1


def test_a_calibration_file_counts_for_a_bag(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/cam/image", IMAGE, stamp(i), raw_image(i)) for i in range(3)])
    file = tmp_path / "camera.yaml"
    file.write_text(f"image_width: 64\nimage_height: 48\ncamera_matrix: {{data: {(K * 1.1).ravel().tolist()}}}\n")
    file.write_text(file.read_text().replace(f"{K[2, 2] * 1.1}]", "1.0]"))
    frames, _ = read(bag, camera_info=file)
    assert frames[0].K[0, 0] == pytest.approx(77)
    frames, _ = read(camera_bag(tmp_path / "calibrated"), camera_info=file)
    assert frames[-1].K[0, 0] == pytest.approx(77)
    file.write_text(file.read_text().replace("64", "640"))
    with pytest.raises(SourceError, match="the calibration is for 640x48"):
        read(bag, camera_info=file)
