"""The voxel map on a wall that somebody walks past, and the files that it is saved in."""

import os
from dataclasses import replace

import numpy as np
import pytest
from test_mapping_objects import HEIGHT, WALL, WIDTH, view

from easi3r_ros.core.config import MapConfig
from easi3r_ros.core.types import PointCloud
from easi3r_ros.mapping import voxel_map
from easi3r_ros.mapping.map_files import MapFileError, save_cloud
from easi3r_ros.mapping.voxel_map import VoxelMap

WALKER = (-0.5, -1.0, 4.0, 1.0, 2.0)


def made(config=None, carve=True) -> VoxelMap:
    return VoxelMap(config or MapConfig(voxel_size=0.2), 1.2, carve)


def seen(index, *things, mask=True, **options):
    """Four images a second, so that each counts."""
    result = view(*things, index=index, rate=4.0, **options)
    return result if mask else replace(result, mask=np.zeros_like(result.mask))


def ghosts(map_: VoxelMap) -> int:
    return int((map_.points().xyz[:, 2] < WALL - 1).sum())


class TestMap:
    def test_the_wall_is_there_after_two_images(self):
        map_ = made()
        assert map_.add(seen(0)) and len(map_.points().xyz) == 0
        map_.add(seen(1))
        cloud = map_.points()
        np.testing.assert_allclose(cloud.xyz[:, 2], WALL, atol=0.01)
        assert np.ptp(cloud.xyz[:, 0]) == pytest.approx(WALL * WIDTH / 300, rel=0.05) and (cloud.confidence == 2).all()
        assert cloud.rgb.dtype == np.uint8 and cloud.xyz.dtype == np.float32

    def test_the_camera_s_pose_counts(self):
        map_ = made()
        for index in range(4):
            map_.add(seen(index, camera=(0.0, 0.0, 0.5 * index)))  # the depth stays: the wall is farther each time
        assert len(map_.points().xyz) == 0 and len(map_) > 1000

    def test_what_moves_is_not_in_it(self):
        map_ = made()
        for index in range(4):
            map_.add(seen(index, WALKER))
        assert ghosts(map_) == 0 and len(map_.points().xyz) > 500

    def test_a_ghost_goes_when_the_wall_is_seen_through_it(self):
        """No mask at all: somebody stood there and left."""
        maps = {carve: made(carve=carve) for carve in (True, False)}
        for map_ in maps.values():
            for index in range(4):
                map_.add(seen(index, WALKER, mask=False))
            assert ghosts(map_) > 50
            for index in range(4, 10):
                map_.add(seen(index))
        assert ghosts(maps[True]) == 0 and ghosts(maps[False]) > 50
        assert len(maps[True].points().xyz) == len(maps[False].points().xyz) - ghosts(maps[False])

    def test_a_ghost_goes_when_a_later_mask_says_that_it_moves(self):
        """A person who stood, and begins to wave: nothing is seen through."""
        map_ = made()
        for index in range(3):
            map_.add(seen(index, WALKER, mask=False))
        assert ghosts(map_) > 50
        for index in range(3, 8):
            map_.add(seen(index, WALKER))
        assert ghosts(map_) == 0

    def test_what_a_mover_hides_stays(self):
        map_ = made()
        for index in range(3):
            map_.add(seen(index))
        before = len(map_.points().xyz)
        for index in range(3, 12):
            map_.add(seen(index, WALKER))
        assert len(map_.points().xyz) == before

    def test_noise_of_depth_takes_nothing_away(self):
        map_ = made(MapConfig(voxel_size=0.5))
        for index in range(20):
            result = seen(index)
            noise = 1 + 0.02 * np.random.default_rng(index).normal(size=result.depth.shape)
            map_.add(replace(result, depth=(result.depth * noise).astype(np.float32)))
        columns = {tuple(cell) for cell in np.floor(map_.points().xyz[:, :2] / 0.5).astype(int)}
        assert len(columns) > 0.98 * (WALL * WIDTH / 300 / 0.5) * (WALL * HEIGHT / 300 / 0.5)

    def test_memory_is_bounded_and_the_oldest_goes(self):
        map_ = made(MapConfig(voxel_size=0.2, max_voxels=3000))
        for index in range(30):
            map_.add(seen(index, camera=(0.5 * index, 0.0, 0.0)))
            assert len(map_) <= 3000
        assert map_.overflowed
        assert map_.points().xyz[:, 0].max() > 14 and map_.points().xyz[:, 0].min() > 0

    def test_images_in_quick_succession_say_the_same(self):
        map_ = made()
        taken = [index for index in range(8) if map_.add(view(index=index, rate=25.0))]
        assert taken == [0, 3, 6], "a tenth of a second apart"

    @pytest.mark.parametrize("metric, expected", [(True, voxel_map.METRES), (False, WALL / voxel_map.SHARE)])
    def test_size_of_cells(self, metric, expected):
        map_ = made(MapConfig())
        map_.add(seen(0, metric=metric))
        assert map_.voxel_size == pytest.approx(expected)
        map_.restart()
        assert len(map_) == 0 and map_.voxel_size == 0

    def test_nothing_is_known_so_nothing_is_added(self):
        map_ = made()
        result = seen(0)
        assert not map_.add(replace(result, confidence=np.ones_like(result.confidence)))
        assert not map_.add(replace(result, depth=result.depth * np.nan)) and len(map_) == 0


CLOUD = PointCloud(
    np.array([[1, 2, 3], [-4, 5, 6.5]], np.float32),
    np.array([[255, 0, 1], [2, 3, 4]], np.uint8),
    np.array([2, 7], np.float32),
)


class TestFiles:
    def test_ply(self, tmp_path):
        path = save_cloud(CLOUD, str(tmp_path / "map.ply"), False, "frame map, unit: metres")
        header, _, data = path.read_bytes().partition(b"end_header\n")
        assert header.startswith(b"ply\nformat binary_little_endian 1.0\ncomment frame map, unit: metres\n")
        assert b"element vertex 2\n" in header
        kind = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3), ("confidence", "<f4")])
        points = np.frombuffer(data, kind)
        np.testing.assert_array_equal(points["xyz"], CLOUD.xyz)
        np.testing.assert_array_equal(points["rgb"], CLOUD.rgb)

    def test_pcd(self, tmp_path):
        path = save_cloud(CLOUD, str(tmp_path / "map.PCD"), False)
        header, _, data = path.read_bytes().partition(b"DATA binary\n")
        assert b"FIELDS x y z rgb confidence\nSIZE 4 4 4 4 4\nTYPE F F F U F\n" in header and b"POINTS 2\n" in header
        points = np.frombuffer(data, np.dtype([("xyz", "<f4", 3), ("rgb", "<u4"), ("confidence", "<f4")]))
        np.testing.assert_array_equal(points["xyz"], CLOUD.xyz)
        assert points["rgb"].tolist() == [0xFF0001, 0x020304]

    def test_home_is_found(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert save_cloud(CLOUD, "~/map.ply", False) == tmp_path / "map.ply"

    def test_a_file_that_is_there_stays_unless_asked(self, tmp_path):
        path = tmp_path / "map.ply"
        path.write_text("mine")
        with pytest.raises(MapFileError, match="is there already: take another name, or set overwrite"):
            save_cloud(CLOUD, str(path), False)
        assert path.read_text() == "mine"
        save_cloud(CLOUD, str(path), True)
        assert path.read_bytes().startswith(b"ply") and os.listdir(tmp_path) == ["map.ply"]

    def test_a_file_that_appears_meanwhile_stays(self, tmp_path, monkeypatch):
        path = tmp_path / "map.ply"
        chmod = os.chmod
        monkeypatch.setattr(os, "chmod", lambda *args: path.write_text("theirs") and chmod(*args))
        with pytest.raises(MapFileError, match="is there already"):
            save_cloud(CLOUD, str(path), False)
        assert path.read_text() == "theirs" and os.listdir(tmp_path) == ["map.ply"]

    @pytest.mark.parametrize(
        "path, words",
        [
            ("map.ply", "is relative, and the node's folder is not yours: give an absolute path"),
            ("", "no path"),
            ("/tmp/map.txt", "must end with .ply or .pcd"),
            ("/nowhere/at/all/map.ply", "there is no folder '/nowhere/at/all': make it first"),
            ("/proc/map.ply", "cannot write into '/proc'"),
        ],
    )
    def test_what_cannot_be_written_is_said(self, path, words, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(MapFileError, match=words):
            save_cloud(CLOUD, path, False)
        assert os.listdir(tmp_path) == []

    def test_others_may_read_it_as_any_new_file(self, tmp_path):
        plain = tmp_path / "plain"
        plain.touch()
        path = save_cloud(CLOUD, str(tmp_path / "map.ply"), False)
        assert path.stat().st_mode == plain.stat().st_mode
