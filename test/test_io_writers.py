"""Results as files: what other programs read back is what was written, also after a run that broke off."""

import importlib
import json
import signal
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from helpers_io import HEIGHT, PERIOD, WIDTH, FakePipeline, camera_bag, make_result, picture, stamp, write_video

from easi3r_ros.core.config import CloudConfig, PipelineConfig
from easi3r_ros.core.types import PointCloud, TrackingState
from easi3r_ros.io import SourceError, manifest, open_source
from easi3r_ros.io.recording import (
    NAMES,
    OUTPUTS,
    check_input,
    open_writers,
    prepare_folder,
    run,
    uninterrupted,
    write_summary,
)
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


@pytest.mark.parametrize("state", [TrackingState.INITIALISING, TrackingState.LOST])
def test_a_frame_without_a_pose_has_no_line_and_no_cloud(tmp_path, state):
    config = CloudConfig(stride=1, min_confidence=1.5)
    with TrajectoryWriter(tmp_path / "tum.txt") as writer, CloudWriter(tmp_path, config, every=1) as clouds:
        for index, one in enumerate([state, TrackingState.TRACKING, state, TrackingState.DEGRADED]):
            writer.write(make_result(index, one))
            clouds.write(make_result(index, one))
    lines = (tmp_path / "tum.txt").read_text().splitlines()[1:]
    assert [int(line.split()[0].replace(".", "")) for line in lines] == [stamp(1), stamp(3)]
    assert [path.name[:6] for path in sorted((tmp_path / "dynamic").iterdir())] == ["000001", "000003"]


def test_a_new_world_is_told_from_the_old_one_in_the_trajectory(tmp_path):
    with TrajectoryWriter(tmp_path / "tum.txt") as writer:
        for index, world in enumerate([0, 0, 2, 2]):
            writer.write(replace(make_result(index), world=world))
    lines = (tmp_path / "tum.txt").read_text().splitlines()
    assert [line.startswith("# a new world") for line in lines[1:]] == [False, False, True, False, False]
    file_interface = pytest.importorskip("evo.tools.file_interface", reason="evo is the laboratory's")
    assert file_interface.read_tum_trajectory_file(str(tmp_path / "tum.txt")).num_poses == 4


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
    width, height = size
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)  # 4:2:0 wants even sizes; nothing is lost
    mask, plain = make_result(2).mask, picture(2, *size).astype(int)
    redder = (frames[2][:height, :width] - plain)[..., 0]
    assert redder[13:17, 16:28].mean() > 40 > abs(redder[30:, :10].mean())
    assert mask[13:17, 16:28].all()


def at(index: int, stamp_ns: int, size: tuple[int, int] = (WIDTH, HEIGHT)):
    result = make_result(index, size=size)
    return replace(result, frame=replace(result.frame, stamp_ns=stamp_ns))


def shown_at(path: Path) -> list[float]:
    """Seconds at which the frames of a video are shown, as the file itself says."""
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def overlay(path: Path, stamps: list[int], rate: float = 10.0) -> list[float]:
    with OverlayWriter(path, rate) as writer:
        for index, stamp_ns in enumerate(stamps):
            writer.write(at(index, stamp_ns))
    return shown_at(path)


def test_the_overlay_shows_every_frame_at_its_stamp(tmp_path):
    stamps = [stamp(0) + offset for offset in (0, 33_366_666, 66_733_333, 500_000_000, 510_000_000, 7_000_000_000)]
    shown = overlay(tmp_path / "overlay.mp4", stamps)
    np.testing.assert_allclose(shown, [(each - stamps[0]) / 1e9 for each in stamps], atol=4e-5)  # of 90,000 per second


def test_the_overlay_plays_everywhere(tmp_path):
    overlay(tmp_path / "overlay.mp4", [stamp(index) for index in range(30)])
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert "mp4" in container.format.name and not stream.codec_context.has_b_frames
    capture = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))  # another reader
    assert [capture.read()[0] for _ in range(31)] == [True] * 30 + [False]


@pytest.mark.parametrize("jump", [-3_000_000_000, 0, 4_000_000_000_000_000_000, 3_600_000_000_000])
def test_stamps_that_jump_do_not_stop_the_overlay(tmp_path, jump):
    first = 5_000_000_000
    shown = overlay(tmp_path / "overlay.mp4", [first, first + 100_000_000, first + jump, first + jump + 200_000_000])
    np.testing.assert_allclose(shown, [0.0, 0.1, 0.2, 0.4], atol=4e-5)


@pytest.mark.parametrize("rate", [0.001, 1e6, 30000 / 1001])
def test_every_rate_that_a_source_may_have_can_be_written(tmp_path, rate):
    period = round(1e9 / rate)
    shown = overlay(tmp_path / "overlay.mp4", [0, period, 2 * period], rate)
    assert shown[0] == 0.0 < shown[1] < shown[2]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 50), (17, 16)])
def test_small_overlays_can_be_written(tmp_path, size):
    with OverlayWriter(tmp_path / "overlay.mp4", 25.0) as writer:
        for index in range(3):
            frame = replace(make_result(index).frame, image=picture(index, *size))
            writer.write(replace(make_result(index), frame=frame, mask=np.zeros(size[::-1], bool)))
    assert len(shown_at(tmp_path / "overlay.mp4")) == 3


def test_without_an_encoder_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(WriteError, match=r"no H.264 encoder \(libx264\).*or leave the video out \(--no-video\)"):
        OverlayWriter(tmp_path / "overlay.mp4", 25.0)
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name, *rest: real("no_" + name if name == "av" else name))
    with pytest.raises(WriteError, match="the overlay video needs PyAV: pip install 'av>=12'.*--no-video"):
        OverlayWriter(tmp_path / "overlay.mp4", 25.0)
    assert not list(tmp_path.iterdir())


def test_an_overlay_that_cannot_be_written_is_an_error_in_words(tmp_path):
    with pytest.raises(WriteError, match="cannot write '.*/no/overlay.mp4': No such file or directory"):
        overlay(tmp_path / "no" / "overlay.mp4", [0])


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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*(NAMES[name] for name in (*OUTPUTS, "summary")), manifest.NAME]
    )
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["states"] == {"tracking": 5}
    with open_source(tmp_path / "out" / "bag", topic="/easi3r/mask") as masks:
        assert [frame.stamp_ns for frame in masks] == [stamp(index) for index in range(5)]
    with open_source(tmp_path / "out" / "overlay.mp4") as video:
        assert video.length == 5 and video.rate == pytest.approx(1e9 / PERIOD)


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
    with open_source(tmp_path / "out" / "overlay.mp4") as video:
        assert len(list(video)) == 3
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
    for index, width in enumerate([64, 64, *[80] * 5]):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), picture(index, width))
    with (
        open_source(tmp_path / "images") as source,
        pytest.raises(SourceError, match="frame 6 is 80x48, those before are 64x48"),
    ):
        run(source, FakePipeline(), [MaskWriter(tmp_path / "masks")])
    assert len(list((tmp_path / "masks").iterdir())) == 2


@pytest.fixture
def earlier(tmp_path):
    """(recording, folder with all results of it)."""
    recording, out = camera_bag(tmp_path / "in", 3), tmp_path / "out"
    write_all(recording, out)
    return recording, out


def write_all(recording: Path, out: Path, overwrite: bool = False) -> None:
    prepare_folder(out, overwrite)
    with open_source(recording, topic="/cam/image_raw") as source:
        writers = open_writers(out, OUTPUTS, source, PipelineConfig(), CLASSICAL, clouds_every=1)
        write_summary(run(source, FakePipeline(), writers), out)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_of_a_run_is_in_its_manifest_and_overwritten(earlier):
    recording, out = earlier
    (out / "notes.txt").write_text("mine")
    (out / "other").mkdir()
    with pytest.raises(WriteError, match="is not empty: choose another folder, or --overwrite what an earlier run"):
        prepare_folder(out, overwrite=False)
    prepare_folder(out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", "other"]
    write_all(recording, out, overwrite=True)  # and again, beside what is the user's
    write_all(recording, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and len(list((out / "masks").iterdir())) == 3


def test_a_folder_that_no_run_made_is_not_overwritten(tmp_path):
    """The recording that lies in OUT/bag, images in OUT/masks, a video OUT/overlay.mp4: all of them the user's."""
    for name in ("bag/bag_0.mcap", "masks/0.png", "overlay.mp4", "clouds/scan.ply", "trajectory.txt", "summary.json"):
        out = tmp_path / name.replace("/", "_")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("precious")
        with pytest.raises(WriteError, match="is not empty: choose another folder$"):  # nothing to overwrite here
            prepare_folder(out, overwrite=False)
        with pytest.raises(WriteError, match=f"{name}' was not written by an earlier run: move it away"):
            prepare_folder(out, overwrite=True)
        assert contents(out) == {name: b"precious"}


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "# a note of mine\n")


def replace_by_own(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"my own")


def replace_by_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "change, name, words",
    [
        (lambda out: edit(out / "trajectory.txt"), "trajectory.txt", "has changed since a run wrote it"),
        (lambda out: replace_by_own(out / "overlay.mp4"), "overlay.mp4", "has changed since"),
        (lambda out: replace_by_link(out / "summary.json"), "summary.json", "has changed since"),
        (
            lambda out: (out / "masks" / "best.png").write_bytes(b"mine"),
            "best.png",
            "was not written by an earlier run",
        ),
        (lambda out: (out / "clouds" / "dynamic" / "x").mkdir(), "dynamic/x", "was not written by an earlier run"),
        (lambda out: (out / "bag").rename(out / "b") and (out / "bag").mkdir(), "", ""),
    ],
)
def test_nothing_is_removed_where_something_of_the_user_s_would_be(earlier, change, name, words):
    recording, out = earlier
    change(out)
    before = contents(out)
    if words:
        with pytest.raises(WriteError, match=f"{name}' {words}"):
            prepare_folder(out, overwrite=True)
        assert contents(out) == before
    else:  # moved away: not a run's file any more
        prepare_folder(out, overwrite=True)
        assert {path.name for path in out.iterdir()} == {"b"} and (out / "b" / "bag.mcap").exists()


def test_what_a_killed_run_left_can_be_overwritten(tmp_path):
    """No writer was closed: open files are known by their inode, so a copy of the user's in their place is safe."""
    recording, out = camera_bag(tmp_path / "in", 3), tmp_path / "out"
    prepare_folder(out, overwrite=False)
    source = open_source(recording)
    for writer in open_writers(out, OUTPUTS, source, PipelineConfig(), CLASSICAL, clouds_every=1):
        writer.write(make_result(0))
    with (out / manifest.NAME).open("a") as file:
        file.write('{"path": "masks/0000')  # the line that it was writing
    assert {"overlay.mp4", "trajectory.txt", "bag", "masks", "clouds"} <= {path.name for path in out.iterdir()}
    (out / "overlay.mp4").rename(out / "kept.mp4")
    (out / "overlay.mp4").write_bytes((out / "kept.mp4").read_bytes())
    with pytest.raises(WriteError, match="overlay.mp4' has changed"):
        prepare_folder(out, overwrite=True)
    (out / "kept.mp4").replace(out / "overlay.mp4")
    prepare_folder(out, overwrite=True)
    assert not list(out.iterdir())


@pytest.mark.parametrize("path", ["../in/precious", "/etc/hostname", "..", ".", ""])
def test_a_manifest_can_name_nothing_outside_its_folder(tmp_path, path):
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "precious").write_text("x")
    status = (tmp_path / "in" / "precious").stat()
    line = {"path": path, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    (tmp_path / "out" / manifest.NAME).write_text(json.dumps(line) + "\n" + json.dumps({"path": path, "folder": True}))
    prepare_folder(tmp_path / "out", overwrite=True)
    assert (tmp_path / "in" / "precious").read_text() == "x" and (tmp_path / "out").is_dir()


def test_a_linked_folder_is_not_emptied(earlier, tmp_path):
    _, out = earlier
    (out / "masks").rename(tmp_path / "archive")
    (out / "masks").symlink_to(tmp_path / "archive")
    with pytest.raises(WriteError, match="has changed since"):
        prepare_folder(out, overwrite=True)
    assert len(list((tmp_path / "archive").iterdir())) == 3


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match="is a file"):
        prepare_folder(tmp_path / "notes.txt", overwrite=True)


@pytest.mark.parametrize("inside", ["", "bag", "bag/bag.mcap", "masks", "overlay.mp4", "a/b"])
def test_a_recording_in_the_folder_of_the_results_is_refused(tmp_path, inside):
    out = tmp_path / "out"
    (out / inside).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "link").symlink_to(out)
    for recording, folder in (
        (out / inside, out),
        (tmp_path / "link" / inside, out),
        (out / inside, tmp_path / "link"),
    ):
        with pytest.raises(WriteError, match="the input .* lies in .*, where the results go: choose another folder"):
            check_input(recording, folder)
    check_input(out / "bag", tmp_path / "other")
    check_input(tmp_path / "outside", out)
    check_input(out, out / "results")
    check_input(Path("synthetic:walkers"), Path("."))


def test_damage_is_in_the_summary(tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), picture(index))
    (tmp_path / "images" / "1.png").write_bytes(b"")
    with open_source(tmp_path / "images") as source:
        summary = run(source, FakePipeline(), [MaskWriter(tmp_path / "masks")])
    assert (summary.frames, summary.left_out, summary.breaks_off) == (2, 1, False)
    assert [path.name[:6] for path in sorted((tmp_path / "masks").iterdir())] == ["000000", "000002"]


def test_images_too_small_to_be_used_are_refused(tmp_path):
    (tmp_path / "dot").mkdir()
    cv2.imwrite(str(tmp_path / "dot" / "0.png"), picture(0, 1, 1))
    with open_source(tmp_path / "dot") as source, pytest.raises(SourceError, match="1x1 pixels, at least 16x16"):
        run(source, FakePipeline(), [])


def test_an_image_that_a_backbone_cannot_take_is_an_error_of_the_source(tmp_path):
    class Picky(FakePipeline):
        def push(self, frame):
            if frame.index == self.refused:
                raise ValueError("too thin")
            return super().push(frame)

    with open_source(camera_bag(tmp_path / "in", 3)) as source:
        Picky.refused = 0
        with pytest.raises(SourceError, match="in' cannot be processed: too thin"):
            run(source, Picky(), [])
        Picky.refused = 1  # a mistake of ours, which must not look like one of the user's
        with pytest.raises(ValueError, match="^too thin$"):
            run(source, Picky(), [])
