"""Which part of the code may import which: the contracts of pyproject.toml, and the library without any ROS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Imports every module but the node and the demo, which runs it, while every ROS package is made impossible to import.
WITHOUT_ROS = """
import importlib, pathlib, sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        messages = name == "easi3r_ros.msg" or top.endswith(("_msgs", "_interfaces"))
        if messages or top in {"rclpy", "cv_bridge", "tf2_ros", "sensor_msgs_py", "diagnostic_updater"}:
            raise ModuleNotFoundError(f"{name}: there is no ROS here", name=name)

sys.meta_path.insert(0, NoRos())
root = pathlib.Path(sys.argv[1])
for path in sorted(root.joinpath("easi3r_ros").rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    if parts[1] not in ("ros", "demo"):
        importlib.import_module(".".join(parts).removesuffix(".__init__"))
"""


def test_contracts_hold():
    pytest.importorskip("importlinter")
    # A process of its own: it silences the loggers of the process that it runs in.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout


def test_the_library_imports_without_ros():
    command = [sys.executable, "-c", WITHOUT_ROS, str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
