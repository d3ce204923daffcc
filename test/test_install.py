"""The product as pip and colcon install it: without the laboratory, and whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Imports every module of a folder, and opens a clip of the laboratory. Prints what went wrong, by module.
USE = """
import importlib, json, pathlib, sys
root = pathlib.Path(sys.argv[1])
failed = {}
for path in sorted(root.joinpath("easi3r_ros").rglob("*.py")):
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    if name.endswith("__main__"):
        continue
    try:
        module = importlib.import_module(name)
        assert pathlib.Path(module.__file__).is_relative_to(root), f"{module.__file__} is not what was installed"
    except ImportError as error:
        failed[name] = error.name or str(error)
from easi3r_ros.io import SourceError, open_source
try:
    open_source("synthetic:walkers")
except SourceError as error:
    failed["synthetic:"] = str(error)
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that `pip install --target` makes of a copy, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("install")
    source, target = folder / "source", folder / "target"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "build", "install", "log", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=hidden)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "--target", str(target), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_no_file_of_the_laboratory_is_installed(installed: Path):
    files = [path.relative_to(installed) for path in installed.rglob("*") if path.is_file()]
    assert any(path.name == "node.py" for path in files)
    top = {path.parts[0] for path in files}
    assert {name for name in top if name.startswith("easi3r_lab") or name in ("lab", "test")} == set()
    for path in installed.glob("*.dist-info/entry_points.txt"):
        assert "easi3r_lab" not in path.read_text() and "easi3r-lab" not in path.read_text()


def test_it_works_alone(installed: Path):
    """Every module is imported from that folder. What needs ROS may fail where there is none; nothing else may."""
    # -S: the .pth files of an editable install would bring the checkout back. Libraries come from their own folders.
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    inherited = [p for p in sys.path if p and Path(p).is_dir() and not Path(p).is_relative_to(ROOT)]
    path = [str(installed), *(p for p in inherited if "python" in p.lower()), *folders]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}
    command = [sys.executable, "-S", "-c", USE, str(installed)]
    done = subprocess.run(command, env=environment, cwd=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    said = failed.pop("synthetic:")
    assert "laboratory" in said or "cannot be imported" in said  # the second: the .venv knows it, the path does not
    of_ros = {name: cause for name, cause in failed.items() if name.startswith("easi3r_ros.ros.")}
    assert failed == of_ros
    missing = set(of_ros.values())
    assert all(name.split(".")[0] == "rclpy" or name == "easi3r_ros.msg" or "_msgs" in name for name in missing), (
        missing
    )


def test_a_clip_without_the_laboratory_says_how_to_get_it(monkeypatch, tmp_path):
    from easi3r_ros.io import SourceError, open_source

    monkeypatch.chdir(tmp_path)
    opener = sys.modules[open_source.__module__]
    monkeypatch.setattr(opener, "entry_points", lambda **_: ())
    with pytest.raises(SourceError, match="laboratory.*pip install -e lab"):
        open_source("synthetic:walkers")
    with pytest.raises(SourceError, match="'moon:walkers' does not exist"):
        open_source("moon:walkers")
    (tmp_path / "synthetic:walkers").mkdir()
    with pytest.raises(SourceError, match="neither a bag"):  # what exists is a path
        open_source("synthetic:walkers")
