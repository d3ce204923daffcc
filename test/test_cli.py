"""The command line: what it prints, what it writes, and one line with exit status 2 for every mistake of the user."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_io import FakePipeline, camera_bag, encode_video, picture, raw_image, write_bag, write_video

from easi3r_ros.cli import main
from easi3r_ros.io import open_source
from easi3r_ros.io.sources import stamp_at

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "test" / "data" / "golden"
needs_ros = pytest.mark.skipif(
    importlib.util.find_spec("rclpy") is None, reason="no ROS 2 here: `make test` sets it up"
)


@pytest.fixture
def easi3r(capsys):
    """Call the command as from a shell: (exit status, stdout, stderr)."""

    def call(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        code = 0 if end.value.code is None else end.value.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def fake_pipeline(monkeypatch):
    """`run` with a pipeline that does no work; the configuration it was made with is kept in `.config`."""
    import easi3r_ros.core.pipeline as module

    class Fake(FakePipeline):
        class backbone:
            name = "fake"
            has_attention = False

        def __init__(self, config, journal=None):
            Fake.config = config

    monkeypatch.setattr(module, "Pipeline", Fake)
    return Fake


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from easi3r_ros.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'cv2', 'numpy', 'rclpy', 'rosbags'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in ("run", "play", "weights", "doctor"))


def test_run_writes_results_and_a_summary(easi3r, fake_pipeline, tmp_path):
    code, out, err = easi3r("run", camera_bag(tmp_path / "bag", 4), "--out", tmp_path / "out")
    assert code == 0, err
    assert "4 frames of 64 x 48 (4 tracking)" in out and f"results in {tmp_path / 'out'}" in out
    assert "backbone: fake, which needs no checkpoint" in err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames"] == 4
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


def test_run_takes_settings_in_order_of_precedence(easi3r, fake_pipeline, tmp_path):
    (tmp_path / "p.yaml").write_text(
        "/**:\n  ros__parameters: {window.size: 6, clouds.stride: 4, backbone.device: cuda, tf_mode: none}"
    )
    code, _, err = easi3r(
        *("run", write_video(tmp_path / "clip.mp4"), "--out", tmp_path / "out", "--config", tmp_path / "p.yaml"),
        *("--set", "window.size=7", "--device", "cpu", "--max-frames", 2, "--no-video", "--no-bag", "--no-clouds"),
    )
    assert code == 0, err
    config = fake_pipeline.config
    assert (config.window.size, config.clouds.stride, config.backbone.device) == (7, 4, "cpu")
    assert "also sets tf_mode, which only concern the node" in err
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"masks", "trajectory.txt", "summary.json", "manifest.jsonl"}
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2


def test_run_works_with_the_real_pipeline(easi3r, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", 4, size=(96, 64))
    code, out, err = easi3r("run", clip, "--out", tmp_path / "out", "--set", "backbone.name=classical")
    assert code == 0, err
    assert "4 frames of 96 x 64" in out
    lines = (tmp_path / "out" / "trajectory.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [], "no parallax: no pose was measured"
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


def test_global_says_what_it_cannot_align_and_leaves_nothing(easi3r, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", 4, size=(96, 64))  # a picture that becomes brighter: no parallax
    code, _, err = easi3r("run", clip, "--out", tmp_path / "out", "--set", "backbone.name=classical", "--global")
    assert code == 2
    assert "error: no frame has a place in the world" in err and "leave out --global" in err
    assert not list((tmp_path / "out").iterdir())


def test_user_errors_are_one_line(easi3r, fake_pipeline, tmp_path):
    bag = camera_bag(tmp_path / "bag", 1)
    stereo = write_bag(
        tmp_path / "stereo",
        [(f"/{side}/image", "sensor_msgs/msg/Image", 1, raw_image(0)) for side in ("left", "right")],
    )
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    out = ("--out", tmp_path / "out")
    for arguments, words in [
        (("run", tmp_path / "nothing", *out), "does not exist"),
        (("run", tmp_path / "text.mp4", *out), "cannot be decoded as video"),
        (("run", stereo, *out), "2 image topics: choose one with --topic"),
        (("run", bag, "--out", tmp_path / "full"), "is not empty"),
        (("run", bag, *out, "--set", "window.sise=3"), "unknown setting 'window.sise'"),
        (("run", bag, *out, "--set", "window.size=1"), "'window.size' is 1, must be in"),
        (("run", bag, *out, "--config", tmp_path / "no.yaml"), "cannot read"),
        (("run", bag, *out, "--checkpoint", "monst3r"), "easi3r weights get monst3r"),
        (("weights", "get", "dust4r"), "no checkpoint is called 'dust4r'; known: dust3r-512-dpt"),
        (("weights", "generate", "huge", "--out", tmp_path / "w.pth"), "neither a file nor one of"),
        (("play", tmp_path / "nothing"), "does not exist"),
    ]:
        code, _, err = easi3r(*arguments)
        assert code == 2, (arguments, err)
        assert err.startswith("error: ") and words in err, (arguments, err)
        assert "Traceback" not in err


def test_a_recording_is_never_deleted(easi3r, fake_pipeline, tmp_path):
    """`--overwrite` was the advice of an error message; following it deleted the input."""
    session = tmp_path / "session"
    bag = camera_bag(session / "bag", 3)
    masks = image_folder(session / "masks", 3)
    clip = write_video(session / "overlay.mp4", 3)
    before = {path: path.read_bytes() for path in session.rglob("*") if path.is_file()}
    for recording in (bag, bag / "bag.mcap", masks, clip):
        for options in ((), ("--overwrite",)):
            code, _, err = easi3r("run", recording, "--out", session, *options)
            assert code == 2 and "lies in" in err and "choose another folder" in err and "--overwrite" not in err
    for options in ((), ("--overwrite",)):  # and what is no input of this run neither
        code, _, err = easi3r("run", camera_bag(tmp_path / f"b{len(options)}", 3), "--out", session, *options)
        assert code == 2 and ("is not empty" in err or "was not written by an earlier run" in err)
    assert {path: path.read_bytes() for path in session.rglob("*") if path.is_file()} == before


def test_an_earlier_run_is_overwritten(easi3r, fake_pipeline, tmp_path):
    bag, out = camera_bag(tmp_path / "bag", 3), tmp_path / "out"
    assert easi3r("run", bag, "--out", out)[0] == 0
    code, _, err = easi3r("run", bag, "--out", out)
    assert code == 2 and "or --overwrite what an earlier run wrote there" in err
    assert easi3r("run", bag, "--out", out, "--overwrite", "--max-frames", 2, "--no-bag")[0] == 0
    assert len(list((out / "masks").iterdir())) == 2 and not (out / "bag").exists()


def image_folder(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> Path:
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index, *size))
    return folder


def test_damage_does_not_end_a_run_but_shows_in_its_exit_status(easi3r, fake_pipeline, tmp_path):
    folder = image_folder(tmp_path / "images", 4)
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:200])
    code, out, err = easi3r("run", folder, "--out", tmp_path / "out")
    assert code == 1 and "3 frames of 64 x 48" in out
    assert f"warning: '{folder}' is damaged: 1 damaged picture left out" in err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["left_out"] == 1
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3


def test_a_truncated_video_shows_in_the_exit_status(easi3r, fake_pipeline, tmp_path):
    clip = encode_video(tmp_path / "a.mp4", [3000 * i for i in range(60)], muxer={"movflags": "faststart"}, g="10")
    clip.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * 0.7)])
    code, out, err = easi3r("run", clip, "--out", tmp_path / "out", "--no-bag", "--no-clouds")
    assert code == 1 and "results in" in out and "the recording breaks off before its end" in err


def test_the_real_pipeline_goes_on_after_damage(easi3r, tmp_path):
    folder = image_folder(tmp_path / "images", 6, (96, 64))
    (folder / "3.png").write_bytes(b"")
    code, out, err = easi3r("run", folder, "--out", tmp_path / "out", "--set", "backbone.name=classical")
    assert code == 1 and "5 frames of 96 x 64" in out, err
    with open_source(tmp_path / "out" / "bag", topic="/easi3r/mask") as masks:
        assert [frame.stamp_ns for frame in masks] == [stamp_at(index, 30.0) for index in (0, 1, 2, 4, 5)]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "-1", "0", "1e-9", "fast", "1e300"])
def test_a_rate_must_be_a_sensible_number(easi3r, fake_pipeline, tmp_path, value):
    folder = image_folder(tmp_path / "images", 2)
    commands = [("run", folder, "--out", tmp_path / "out", f"--rate={value}"), ("play", folder, f"--fps={value}")]
    if value != "1e300":  # as fast as possible is a wish that can be granted
        commands.append(("play", folder, f"--rate={value}"))
    if value not in ("0", "1e-9", "1e300"):
        commands.append(("play", folder, f"--wait={value}"))
    for command in commands:
        code, _, err = easi3r(*command)
        assert code == 2 and "Traceback" not in err and "unexpected" not in err, (command, err)
        assert "Invalid value" in err or "the frame rate must be" in err, (command, err)
    assert not (tmp_path / "out").exists()


def test_strange_inputs_are_one_sentence(easi3r, tmp_path):
    bag = camera_bag(tmp_path / "bag", 1)
    mixed = image_folder(tmp_path / "mixed", 2)
    write_video(mixed / "clip.mp4")
    (tmp_path / "wide").mkdir()
    cv2.imwrite(str(tmp_path / "wide" / "0.png"), np.zeros((16, 2000, 3), np.uint8))
    for index, (source, words) in enumerate(
        [
            (image_folder(tmp_path / "dot", 2, (1, 1)), "the images are 1x1 pixels, at least 16x16 are needed"),
            (tmp_path / "wide", "cannot be processed: optical flow needs at least"),
            (bag / "metadata.yaml", f"only describes a bag: name its folder, '{bag}'"),
            (mixed, "holds 2 images and 'clip.mp4'"),
            (tmp_path, "name one of its folders, such as 'bag'"),
            ("/dev/null", "is no file"),
            ("", "holds"),  # the current folder
        ]
    ):
        out = tmp_path / "results" / str(index)
        code, _, err = easi3r("run", source, "--out", out, "--set", "backbone.name=classical")
        assert code == 2 and "error: " in err and words in err, (source, err)
        assert "Traceback" not in err and "unexpected" not in err, (source, err)


def test_an_unexpected_error_says_how_to_see_more(easi3r, fake_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_pipeline, "push", lambda self, frame: {}["missing"])
    command = ("run", camera_bag(tmp_path / "bag", 1), "--overwrite", "--out", tmp_path / "out")
    code, _, err = easi3r(*command)
    assert code == 2 and "error: KeyError: 'missing' (unexpected: 'easi3r --debug" in err and "Traceback" not in err
    code, _, err = easi3r("--debug", *command)
    assert code == 2 and "Traceback" in err


def test_a_wrong_option_is_explained(easi3r):
    for number in (0, 10**30):
        code, _, err = easi3r("run", "x", "--out", "y", "--max-frames", number)
        assert code == 2 and "max-frames" in err and "unexpected" not in err


def test_terminate_leaves_readable_files(tmp_path):
    """SIGTERM in the middle of a run, as a shutdown or a launch file sends it."""
    script = (
        "import sys, time\n"
        "import easi3r_ros.core.pipeline as module\n"
        "from helpers_io import FakePipeline\n"
        "class Slow(FakePipeline):\n"
        "    class backbone: name, has_attention = 'slow', False\n"
        "    def __init__(self, config, journal=None): pass\n"
        "    def push(self, frame): time.sleep(0.05); return super().push(frame)\n"
        "module.Pipeline = Slow\n"
        "from easi3r_ros.cli import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "test"), str(ROOT)])}
    bag, out = camera_bag(tmp_path / "bag", 200), tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "run", str(bag), "--out", str(out)],
        env=environment,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(list((out / "masks").glob("*.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "error: interrupted" in err, err
    with open_source(out / "bag", topic="/easi3r/mask") as masks:
        assert 3 <= len(list(masks)) < 200


def test_weights_lists_licence_source_size_and_sums(easi3r, monkeypatch, tmp_path):
    monkeypatch.setenv("EASI3R_HOME", str(tmp_path))
    for command in (("weights",), ("weights", "list")):
        code, out, _ = easi3r(*command)
        assert code == 0
        assert out.count("CC BY-NC-SA 4.0") == 5 and out.count("https://huggingface.co/") == 5
        assert out.count("trust on first use") == 5 and "2.28 GB, not on this machine" in out
    assert easi3r("weights", "where")[1].strip() == str(tmp_path / "weights")


def test_a_generated_checkpoint_can_be_loaded(easi3r, tmp_path):
    from easi3r_ros.core.dust3r.checkpoints import load_network

    config = {"enc_embed_dim": 48, "enc_depth": 1, "enc_num_heads": 3, "dec_embed_dim": 48, "dec_depth": 4}
    config |= {"dec_num_heads": 3, "head_type": "linear"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, err = easi3r("weights", "generate", tmp_path / "config.json", "--out", tmp_path / "w.pth")
    assert code == 0 and "w.pth:" in out, err
    assert easi3r("weights", "generate", "small", "--out", tmp_path / "w.pth")[0] == 2  # nothing is overwritten
    network, _ = load_network(tmp_path / "w.pth")
    assert sum(p.numel() for p in network.parameters()) > 100_000


def test_doctor_reports_every_subject(easi3r, monkeypatch, tmp_path):
    monkeypatch.setenv("EASI3R_HOME", str(tmp_path))
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    code, out, _ = easi3r("doctor")
    assert code == 0
    lines = [line.split() for line in out.splitlines() if not line.startswith(" ")]
    subjects = {subject: status for status, subject, *_ in lines}
    ros = {"ros", "messages", "rmw", "discovery"}
    assert {"python", "torch", "cuda", "opencv-python-headless", "rosbags", "video", "disk"} | ros <= set(subjects)
    assert subjects["python"] == subjects["video"] == subjects["discovery"] == "ok"
    assert subjects["checkpoints"] == "warn" and "easi3r weights list" in out
    assert "ROS_DOMAIN_ID 7, range LOCALHOST: only nodes on this machine" in out


def test_doctor_fails_on_what_must_be_repaired(easi3r, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "seven")
    code, out, _ = easi3r("doctor")
    assert code == 1 and "must be a number from 0 to 232" in out


def test_play_needs_ros(easi3r, monkeypatch, tmp_path):

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rclpy" else real(name))
    code, _, err = easi3r("play", camera_bag(tmp_path / "bag", 1))
    assert code == 2 and err.startswith("error: 'easi3r play' needs ROS 2")


@needs_ros
def test_play_publishes_and_reports(easi3r, monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + (os.getpid() + 11) % 100))
    bag = camera_bag(tmp_path / "bag", 5)
    code, out, err = easi3r(
        "play", bag, "--rate", 5, "--clock", "--topic", "/cam/image_raw", "--remap", "/cam/image_raw:=/eye"
    )
    assert code == 0, err
    assert "5 messages on /eye" in out and "publishing /eye (sensor_msgs/msg/Image)" in err
    code, _, err = easi3r("play", bag, "--remap", "/cam/image_raw=/eye")
    assert code == 2 and "FROM:=TO" in err
    code, _, err = easi3r("play", bag, "--remap", "image_raw:=/eye")
    assert code == 2 and "error: there is no '/image_raw' to be remapped; there are: /cam/image_raw" in err
    code, out, err = easi3r("play", bag, "--rate", 50, "--remap", "/cam/image_raw:=/eye/image")
    assert code == 0 and "5 messages on /eye/camera_info" in out and "/eye/camera_info (sensor_msgs" in err
    code, _, err = easi3r("play", bag, "--remap", "/cam/image_raw:=/an image")
    assert code == 2 and "'/cam/image_raw' cannot be published" in err and "unexpected" not in err


@needs_ros
def test_play_shows_that_it_renders(easi3r, monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + (os.getpid() + 11) % 100))
    monkeypatch.setattr("easi3r_lab.synthetic.source._FRAMES", 4)
    code, out, err = easi3r("play", "synthetic:static", "--rate", 50)
    assert code == 0 and "4 messages on /image" in out
    assert "rendering" in err and "4/4" in err


@needs_ros
def test_play_leaves_out_damage_and_says_so(easi3r, monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + (os.getpid() + 11) % 100))
    folder = image_folder(tmp_path / "images", 4)
    (folder / "2.png").write_bytes(b"")
    code, out, err = easi3r("play", folder, "--rate", 50)
    assert code == 1 and "3 messages on /image" in out and "1 damaged picture left out" in err
