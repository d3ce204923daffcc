"""The `easi3r-lab` command: what it shares with `easi3r`, and `verify`, `demo` and `train` as a shell sees them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from easi3r_lab.cli import main
from easi3r_lab.eval import golden
from easi3r_lab.training import held_out
from easi3r_lab.training.plan import Stage, TrainingPlan
from helpers_dust3r import GOLDEN

import easi3r_ros
from easi3r_ros.core.dust3r.network import NetworkConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def easi3r_lab(capsys):
    """Call the command as from a shell: (exit status, stdout, stderr)."""

    def call(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        code = 0 if end.value.code is None else end.value.code
        return code, *capsys.readouterr()

    return call


def test_help_imports_nothing_heavy_that_the_robots_command_does_not():
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "import easi3r_ros.cli.app\n"
        "before = set(sys.modules)\n"
        "from easi3r_lab.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'cv2', 'numpy', 'rclpy', 'matplotlib', 'evo'} & set(sys.modules) - before), "
        "file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lab")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in ("demo", "verify", "eval", "bench", "train"))


def test_the_commands_of_the_robot_and_of_the_laboratory_are_apart(easi3r_lab, capsys):
    from easi3r_ros.cli import main as easi3r

    for command in ("demo", "verify", "eval", "bench", "train"):
        with pytest.raises(SystemExit) as end:
            easi3r([command, "--help"])
        assert end.value.code == (0 if command == "bench" else 2)  # both have one of their own
        assert easi3r_lab(command, "--help")[0] == 0
    assert easi3r_lab("run", "x")[0] == 2
    assert easi3r_lab("--version")[1].strip() == easi3r_ros.__version__


def test_verify_prints_a_table_and_fails_on_a_wrong_value(easi3r_lab, tmp_path):
    file = next(iter(sorted(GOLDEN.glob("*small_linear*.npz"))), None)
    if file is None:
        pytest.skip("no golden file of a small network in test/data")
    code, out, err = easi3r_lab("verify", file)
    assert code == 0, out + err
    assert "max error" in out and "quantities within tolerance" in out and "NO" not in out
    arrays = dict(np.load(file))
    name = next(name for name in arrays if "pts3d" in name)
    arrays[name] = arrays[name] + 0.01
    np.savez(tmp_path / "wrong.npz", **arrays)
    code, out, _ = easi3r_lab("verify", tmp_path / "wrong.npz")
    assert code == 1 and "NO" in out


def test_errors_of_the_laboratory_are_one_line(easi3r_lab, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    for arguments, words in [
        (("verify", tmp_path / "nothing.npz"), "there is no file"),
        (("verify", tmp_path / "text.npz"), "is not a golden file"),
        (("train", "--out", tmp_path / "t", "--minutes", 0), "some time to train"),
        (("train", "--out", tmp_path / "t", "--device", "abacus"), "'abacus' is not available"),
        (("bench", "align", "--golden", tmp_path / "nothing.npz"), "is no golden file"),
    ]:
        code, _, err = easi3r_lab(*arguments)
        assert code == 2, (arguments, err)
        assert err.startswith("error: ") and words in err and "unexpected" not in err, (arguments, err)
        assert "Traceback" not in err


def test_an_unexpected_error_names_this_command(easi3r_lab, monkeypatch, tmp_path):
    monkeypatch.setattr(golden, "verify_file", lambda path, say: {}["missing"])
    code, _, err = easi3r_lab("verify", tmp_path / "x.npz")
    assert code == 2 and "error: KeyError: 'missing' (unexpected: 'easi3r-lab --debug" in err
    code, _, err = easi3r_lab("--debug", "verify", tmp_path / "x.npz")
    assert code == 2 and "Traceback" in err


def test_demo_needs_ros(easi3r_lab, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rclpy" else real(name))
    code, _, err = easi3r_lab("demo")
    assert code == 2 and err.startswith("error: 'easi3r-lab demo' needs ROS 2")


def test_train_writes_a_checkpoint_that_is_a_folder_of_its_own(easi3r_lab, monkeypatch, tmp_path):
    network = NetworkConfig(32, 1, 2, 32, 2, 2, head="linear", image_size=(64, 48), patch_size=8)
    small = {"network": network, "stages": (Stage(1.0, 32, 2),), "scenes_per_shard": 2, "views_per_scene": 2}
    monkeypatch.setattr("easi3r_lab.training.plan.TrainingPlan", partial(TrainingPlan, **small, mixed_batches=1))
    monkeypatch.setattr(held_out, "SCENES", 4)
    held_out.held_out_pairs.cache_clear()
    code, out, err = easi3r_lab("train", "--out", tmp_path, "--minutes", 0.01, "--workers", 0)
    held_out.held_out_pairs.cache_clear()
    assert code == 0, err
    assert "abs_rel" in out and f"wrote {tmp_path}" in out.replace("\n", "")
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["enc_embed_dim"] == 32
