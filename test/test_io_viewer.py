"""The rerun recording: written without a display, read back with rerun's own reader."""

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from helpers_io import HEIGHT, WIDTH, K, camera_bag, make_result, stamp

from easi3r_ros.cli import main
from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import Scale, ScaleState, TrackingState
from easi3r_ros.io.recording import check_outputs
from easi3r_ros.io.writers import WriteError

rr = pytest.importorskip("rerun", reason="rerun-sdk is not installed: pip install rerun-sdk")
chunks = pytest.importorskip("rerun.chunk", reason="this rerun-sdk cannot read recordings back")
from easi3r_ros.io.viewer import RerunWriter  # noqa: E402  (needs rerun)


class Recording:
    """What a .rrd holds, by entity: rows as {column: value}, `frame` and `stamp` among the columns."""

    def __init__(self, path):
        self.rows = defaultdict(list)
        self.static = set()
        for chunk in chunks.RrdReader(str(path)).stream():
            entity = str(chunk.entity_path)
            batch = chunk.to_record_batch()
            if "stamp" in batch.schema.names:  # in nanoseconds, which Python's datetime does not know
                index = batch.schema.get_field_index("stamp")
                batch = batch.set_column(index, "stamp", batch.column(index).cast("int64"))
            self.rows[entity] += batch.to_pylist()
            if chunk.is_static:
                self.static.add(entity)

    def frames(self, entity, column):
        """The frames in which an entity has a value in a column, in order."""
        return sorted(row["frame"] for row in self.rows[entity] if row.get(column))

    def value(self, entity, column, frame=None):
        (found,) = (row for row in self.rows[entity] if row.get(column) and frame in (None, row.get("frame")))
        return found[column][0] if len(found[column]) == 1 else found[column]


def written(path, results, level="camera", every=2):
    with RerunWriter(path, CloudConfig(stride=1), level, every) as writer:
        for result in results:
            writer.write(result)
    return Recording(path)


@pytest.fixture
def recording(tmp_path):
    evidence = {"geometry": np.full((6, 8), 0.25, np.float32)}
    results = [replace(make_result(index), evidence=evidence) for index in range(4)]
    return written(tmp_path / "recording.rrd", results)


def test_every_entity_is_there_as_often_as_it_should(recording):
    every_frame = [0, 1, 2, 3]
    counts = {
        ("/world/camera/image", "EncodedImage:blob"): every_frame,
        ("/world/camera/mask", "SegmentationImage:buffer"): every_frame,
        ("/world/camera/depth", "DepthImage:buffer"): every_frame,
        ("/world/camera", "Transform3D:translation"): every_frame,
        ("/world/camera", "Pinhole:image_from_camera"): every_frame,
        ("/evidence/probability", "Image:buffer"): every_frame,
        ("/evidence/geometry", "Image:buffer"): every_frame,
        ("/world/trajectory/0", "LineStrips3D:strips"): [1, 2, 3],
        ("/world/dynamic/0", "Points3D:positions"): every_frame,
        ("/world/static/0", "Points3D:positions"): [0, 2],
        ("/status", "TextLog:text"): [0],
    }
    assert {key: recording.frames(*key) for key in counts} == counts
    assert {"/world", "/world/camera"} <= recording.static
    named = {entity for entity in recording.rows if not entity.startswith("/__")}
    assert named == {entity for entity, _ in counts} | {"/world"}


def test_both_time_lines_are_exact(recording):
    rows = recording.rows["/world/camera/image"]
    stamps = {row["frame"]: row["stamp"] for row in rows}
    assert stamps == {index: stamp(index) for index in range(4)}


def test_the_camera_is_where_it_was(recording):
    assert recording.value("/world/camera", "Transform3D:translation", 3) == pytest.approx([0.3, 0, 0])
    matrix = np.reshape(recording.value("/world/camera", "Pinhole:image_from_camera", 1), (3, 3)).T  # by columns
    np.testing.assert_allclose(matrix, K)
    assert recording.value("/world/camera", "Pinhole:resolution", 1) == [WIDTH, HEIGHT]
    assert recording.value("/world/trajectory/0", "LineStrips3D:strips", 2) == pytest.approx(
        np.array([[0.1, 0, 0], [0.2, 0, 0]])
    )


def test_maps_and_clouds_hold_the_values(recording):
    result = make_result(2)
    mask = np.array(recording.value("/world/camera/mask", "SegmentationImage:buffer", 2), np.uint8)
    np.testing.assert_array_equal(mask.reshape(HEIGHT, WIDTH), result.mask)
    depth = np.array(recording.value("/world/camera/depth", "DepthImage:buffer", 2), np.uint8).view(np.float32)
    np.testing.assert_array_equal(depth.reshape(HEIGHT, WIDTH), np.nan_to_num(result.depth))
    static = np.array(recording.value("/world/static/0", "Points3D:positions", 2))
    dynamic = np.array(recording.value("/world/dynamic/0", "Points3D:positions", 2))
    assert len(dynamic) == result.mask.sum() and len(static) == np.isfinite(result.depth).sum() - len(dynamic)
    np.testing.assert_allclose(dynamic[:, 2], 1.0)
    first = np.argwhere(result.mask)[0]  # (v, u), the mover is 1 unit away
    np.testing.assert_allclose(dynamic[0], [(first[1] - K[0, 2]) / 70 + 0.2, (first[0] - K[1, 2]) / 70, 1], rtol=1e-5)


@pytest.mark.parametrize(("level", "axes"), [("camera", [3, 5, 1]), ("none", [3, 2, 5])])
def test_axes_are_those_of_the_world(tmp_path, level, axes):
    """Rerun's codes: 1 up, 2 down, 3 right, 5 forward."""
    recording = written(tmp_path / "recording.rrd", [make_result(0)], level)
    assert recording.value("/world", "ViewCoordinates:xyz") == axes
    assert recording.value("/world/camera", "Pinhole:camera_xyz") == [3, 2, 5]


def test_what_is_not_known_is_not_shown(tmp_path):
    lost = make_result(1, TrackingState.LOST)
    later = replace(make_result(2), world=1)
    withheld = replace(make_result(3), scale=Scale("odometry", ScaleState.UNLOCKED))
    recording = written(tmp_path / "recording.rrd", [make_result(0), lost, later, withheld])
    assert recording.frames("/world/camera", "Transform3D:translation") == [0, 2]
    assert recording.frames("/world/camera", "Clear:is_recursive") == [1, 3]
    assert recording.frames("/world/camera/depth", "DepthImage:buffer") == [0, 1, 2]
    assert recording.frames("/world/camera/depth", "Clear:is_recursive") == [3]
    assert recording.frames("/world/dynamic/1", "Points3D:positions") == [2]
    assert "/world/trajectory/0" not in recording.rows and "/world/trajectory/1" not in recording.rows
    assert recording.value("/status", "TextLog:text", 1) == "lost: because"


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def test_run_writes_a_recording_and_overwrites_its_own(tmp_path):
    bag, out = camera_bag(tmp_path / "bag", 3), tmp_path / "out"
    command = ("run", bag, "--out", out, "--viewer", "rerun", "--no-bag", "--no-video", "--set", "level=none")
    assert run(*command) in (0, None)
    recording = Recording(out / "recording.rrd")
    assert recording.frames("/world/camera/image", "EncodedImage:blob") == [0, 1, 2]
    assert recording.value("/world", "ViewCoordinates:xyz") == [3, 2, 5]
    assert "recording.rrd" in [json.loads(line)["path"] for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert run(*command, "--overwrite") in (0, None)


def test_viewers_are_checked_before_the_work(tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(WriteError, match="there is no display: --viewer rerun writes a file"):
        check_outputs([], "rerun-live")
    with pytest.raises(WriteError, match="'rviz', must be one of: rerun, rerun-live"):
        check_outputs([], "rviz")
