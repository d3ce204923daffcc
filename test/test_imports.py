"""Which part of the code may import which: the contracts of pyproject.toml, and the library without any ROS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Imports every module but those of a folder, while every ROS package is made impossible to import.
WITHOUT_ROS = """
import importlib, pathlib, sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        messages = name == "easi3r_ros.msg" or top.endswith(("_msgs", "_interfaces"))
        if messages or top in {"rclpy", "cv_bridge", "tf2_ros", "sensor_msgs_py", "diagnostic_updater"}:
            raise ModuleNotFoundError(f"{name}: there is no ROS here", name=name)

sys.meta_path.insert(0, NoRos())
package, but = pathlib.Path(sys.argv[1]), sys.argv[2]
for path in sorted(package.rglob("*.py")):
    parts = path.relative_to(package.parent).with_suffix("").parts
    if parts[1] != but and parts[-1] != "__main__":
        importlib.import_module(".".join(parts).removesuffix(".__init__"))
"""


def test_contracts_hold():
    pytest.importorskip("importlinter")
    # A process of its own: it silences the loggers of the process that it runs in.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "lab"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("package", "but"), [("easi3r_ros", "ros"), ("lab/easi3r_lab", "demo")])
def test_the_library_imports_without_ros(package, but):
    """All but the node, and the demo, which runs it."""
    command = [sys.executable, "-c", WITHOUT_ROS, str(ROOT / package), but]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lab")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
