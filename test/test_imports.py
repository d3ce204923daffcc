"""Which part of the code may import which: the contracts of pyproject.toml, and the library without any ROS."""

from __future__ import annotations

import ast
import graphlib
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


def imports_within(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports anywhere, inside functions too."""
    modules = {path.stem: path for path in (ROOT / "easi3r_ros" / package).glob("*.py")}
    graph = {}
    for name, path in modules.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        inside = [node.module.split(".") for node in nodes if node.module]
        graph[name] = {parts[2] for parts in inside if parts[:2] == ["easi3r_ros", package] and len(parts) > 2}
    return graph


@pytest.mark.parametrize("package", ["io", "cli"])
def test_no_module_needs_one_that_needs_it(package):
    graph = imports_within(package)
    assert any(graph.values())
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_command_line_of_the_process_reaches_ros_in_the_node_alone():
    """rclpy.init without `args` reads sys.argv, which is another program's wherever rclpy is used as a library."""
    calls = [
        (path.stem, {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords})
        for path in (*(ROOT / "easi3r_ros").rglob("*.py"), ROOT / "lab/easi3r_lab/demo/client.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "rclpy.init"
    ]
    assert {name for name, _ in calls} == {"node", "player", "client", "survey"}
    assert all(values["args"] == ("args" if name == "node" else "[]") for name, values in calls)
