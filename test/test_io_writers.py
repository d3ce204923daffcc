"""Results as files: what other programs read back is what was written, also after a run that broke off."""

import json
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_io import HEIGHT, PERIOD, WIDTH, FakePipeline, camera_bag, make_result, picture, stamp, write_video

from easi3r_ros.core.config import CloudConfig, PipelineConfig
from easi3r_ros.core.types import PointCloud, TrackingState
from easi3r_ros.io import SourceError, open_source
from easi3r_ros.io.recording import NAMES, OUTPUTS, open_writers, prepare_folder, run, uninterrupted, write_summary
from easi3r_ros.io.writers import (
    VERTEX,
    CloudWriter,
    MaskWriter,
    OverlayWriter,
    PlyFile,
    TrajectoryWriter,
    WriteError,
    in_world,
)
from easi3r_ros.messages.status import BackboneInfo

CLASSICAL = BackboneInfo("classical", "")


def read_ply(path: Path) -> np.ndarray:
    """By what the PLY format says alone, not by our writer."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[2])
    types = {"float": "<f4", "uchar": "u1"}
    fields = [line.split()[1:] for line in lines if line.startswith("property")]
    dtype = np.dtype([(name, types[kind]) for kind, name in fields])
    assert dtype == VERTEX
    return np.frombuffer(body, dtype, count)


def cloud(count: int, offset: float = 0.0) -> PointCloud:
    xyz = np.arange(3 * count, dtype=np.float32).reshape(count, 3) + offset
    return PointCloud(xyz, np.arange(3 * count, dtype=np.uint8).reshape(count, 3), np.ones(count, np.float32))


def test_masks_are_black_and_white_files_named_by_frame_and_stamp(tmp_path):
    with MaskWriter(tmp_path / "masks") as writer:
        for index in range(2):
            writer.write(make_result(index))
    files = sorted((tmp_path / "masks").iterdir())
    assert [file.name for file in files] == [f"{index:06d}_{stamp(index)}.png" for index in range(2)]
    for index, file in enumerate(files):
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(image, make_result(index).mask * np.uint8(255))


def test_a_mask_that_cannot_be_written_is_an_error(tmp_path):
    writer = MaskWriter(tmp_path / "masks")
    (tmp_path / "masks").rmdir()
    with pytest.raises(WriteError, match="cannot write"):
        writer.write(make_result())


def test_evo_reads_the_trajectory(tmp_path):
    with TrajectoryWriter(tmp_path / "tum.txt") as writer:
        for index in range(3):
            writer.write(make_result(index))
        # Complete after every frame: a run that is killed leaves all poses until then.
        assert len((tmp_path / "tum.txt").read_text().splitlines()) == 4
    # The laboratory's; another reader than our own writer is what proves the format.
    file_interface = pytest.importorskip("evo.tools.file_interface")
    trajectory = file_interface.read_tum_trajectory_file(str(tmp_path / "tum.txt"))
    for pose, index in zip(trajectory.poses_se3, range(3), strict=True):
        np.testing.assert_allclose(pose, make_result(index).world_from_cam, atol=1e-8)
    stamps = [line.split()[0] for line in (tmp_path / "tum.txt").read_text().splitlines()[1:]]
    assert [int(text.replace(".", "")) for text in stamps] == [stamp(index) for index in range(3)]


def test_a_lost_frame_has_no_pose(tmp_path):
    with TrajectoryWriter(tmp_path / "tum.txt") as writer:
        writer.write(make_result(0))
        writer.write(make_result(1, TrackingState.LOST))
    assert len((tmp_path / "tum.txt").read_text().splitlines()) == 2


def test_a_cloud_is_readable_after_every_append(tmp_path):
    file = PlyFile(tmp_path / "a.ply")
    assert len(read_ply(tmp_path / "a.ply")) == 0
    file.append(cloud(4))
    file.append(cloud(3, offset=100.0))
    points = read_ply(tmp_path / "a.ply")  # not closed
    expected = np.concatenate([cloud(4).xyz, cloud(3, 100.0).xyz])
    np.testing.assert_array_equal(np.stack([points[axis] for axis in "xyz"], -1), expected)
    np.testing.assert_array_equal(np.stack([points[c] for c in ("red", "green", "blue")], -1)[:4], cloud(4).rgb)
    file.close()


def test_clouds_are_in_the_world_and_split_by_the_mask(tmp_path):
    config = CloudConfig(stride=1)
    with CloudWriter(tmp_path, config, every=2) as writer:
        for index in range(3):
            writer.write(make_result(index))
    static = read_ply(tmp_path / "static.ply")
    moving = make_result(0).mask.sum()
    assert len(static) == 2 * ((HEIGHT - 1) * WIDTH - moving)  # frames 0 and 2; the first row has no depth
    assert np.isfinite(static["z"]).all() and set(static["z"]) == {2.0}
    dynamic = sorted((tmp_path / "dynamic").iterdir())
    assert [file.name for file in dynamic] == [f"{index:06d}_{stamp(index)}.ply" for index in (0, 2)]
    points = read_ply(dynamic[1])
    # The camera has moved 0.2 to the right; the mover's left edge is at pixel 12, 1 unit away.
    assert points["x"].min() == pytest.approx((12 - 31.5) / 70 * 1.0 + 0.2, abs=1e-6)
    assert (points["red"] == picture(2)[12, np.round((points["x"] - 0.2) * 70 + 31.5).astype(int), 0]).all()


def test_a_cloud_is_turned_by_the_camera_s_pose():
    pose = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])  # a quarter turn about z
    moved = in_world(PointCloud(np.array([[1, 2, 3]], np.float32), np.zeros((1, 3), np.uint8), np.ones(1)), pose)
    np.testing.assert_array_equal(moved.xyz, [[8, 21, 33]])


@pytest.mark.parametrize("size", [(64, 48), (65, 47)])
def test_the_overlay_shows_the_mask_on_the_image(tmp_path, size):
    with OverlayWriter(tmp_path / "overlay.mp4", 25.0) as writer:
        for index in range(4):
            writer.write(make_result(index, size=size))
    with open_source(tmp_path / "overlay.mp4") as source:
        assert source.rate == 25.0
        frames = [frame.image.astype(int) for frame in source]
    assert len(frames) == 4
    height, width = frames[0].shape[:2]
    assert abs(width - size[0]) <= 1 and abs(height - size[1]) <= 1  # encoders want even sizes
    mask, plain = make_result(2).mask, picture(2, *size).astype(int)
    redder = (frames[2] - plain[:height, :width])[..., 0]
    assert redder[13:17, 16:28].mean() > 40 > abs(redder[30:, :10].mean())
    assert mask[13:17, 16:28].all()


def test_a_run_writes_everything_and_sums_up(tmp_path):
    prepare_folder(tmp_path / "out", overwrite=False)
    seen = []
    with open_source(camera_bag(tmp_path / "bag", 5)) as source:
        writers = open_writers(tmp_path / "out", OUTPUTS, source, PipelineConfig(), CLASSICAL, clouds_every=2)
        summary = run(source, FakePipeline(), writers, on_result=seen.append)
    write_summary(summary, tmp_path / "out")
    assert [result.frame.index for result in seen] == list(range(5))
    assert (summary.frames, summary.width, summary.height) == (5, WIDTH, HEIGHT)
    assert summary.path_length == pytest.approx(0.4)
    assert summary.latency_p50_ms == pytest.approx(5.0) and summary.frames_per_second == pytest.approx(200.0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES.values())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["states"] == {"tracking": 5}
    with open_source(tmp_path / "out" / "bag", topic="/easi3r/mask") as masks:
        assert [frame.stamp_ns for frame in masks] == [stamp(index) for index in range(5)]
    with open_source(tmp_path / "out" / "overlay.mp4") as overlay:
        assert overlay.length == 5 and overlay.rate == pytest.approx(1e9 / PERIOD)


def test_a_run_that_breaks_off_leaves_readable_files(tmp_path):
    class Breaks(FakePipeline):
        def push(self, frame):
            if frame.index == 3:
                raise KeyboardInterrupt  # any exception will do, and this one is no Exception
            return super().push(frame)

    prepare_folder(tmp_path / "out", overwrite=False)
    with open_source(camera_bag(tmp_path / "bag", 5)) as source:
        writers = open_writers(tmp_path / "out", OUTPUTS, source, PipelineConfig(), CLASSICAL, clouds_every=1)
        with pytest.raises(KeyboardInterrupt):
            run(source, Breaks(), writers)
    with open_source(tmp_path / "out" / "bag", topic="/easi3r/mask") as masks:
        assert len(list(masks)) == 3
    with open_source(tmp_path / "out" / "overlay.mp4") as overlay:
        assert len(list(overlay)) == 3
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3
    assert len(read_ply(tmp_path / "out" / "clouds" / "static.ply")) > 0


def test_an_interrupt_waits_for_the_end_of_a_write():
    finished = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        finished.append("write")
    assert finished == ["write"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # and then as before


def test_a_run_can_stop_early_and_needs_a_frame(tmp_path):
    with open_source(write_video(tmp_path / "clip.mp4", 6)) as source:
        assert run(source, FakePipeline(), [], max_frames=2).frames == 2
        with pytest.raises(SourceError, match="gave no frame"):
            run(source, FakePipeline(), [], max_frames=0)


def test_images_that_change_their_size_end_the_run(tmp_path):
    (tmp_path / "images").mkdir()
    for index, width in enumerate([64, 64, 80]):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), picture(index, width))
    with (
        open_source(tmp_path / "images") as source,
        pytest.raises(SourceError, match="frame 2 is 80x48, those before are 64x48"),
    ):
        run(source, FakePipeline(), [MaskWriter(tmp_path / "masks")])
    assert len(list((tmp_path / "masks").iterdir())) == 2


def test_only_an_earlier_run_is_overwritten(tmp_path):
    out = tmp_path / "out"
    prepare_folder(out, overwrite=False)
    (out / "masks").mkdir()
    (out / "masks" / "000000_1.png").write_text("old")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match="is not empty"):
        prepare_folder(out, overwrite=False)
    prepare_folder(out, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    with pytest.raises(WriteError, match="is a file"):
        prepare_folder(out / "notes.txt", overwrite=True)
