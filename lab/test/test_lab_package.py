"""The laboratory as a package: what is installed, what it needs, names that are its own."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path

import easi3r_lab
import pytest

import easi3r_ros

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "lab"
PACKAGES = (ROOT / "easi3r_ros", LAB / "easi3r_lab")
SHARED = {"app", "cli"}  # both packages have a command line


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that `pip install --target` makes of a copy of lab/, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("install")
    hidden = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "test", "docs")
    shutil.copytree(LAB, folder / "source", ignore=hidden)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    target = folder / "target"
    done = subprocess.run(
        [*command, "--target", target, folder / "source"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_all_of_it_is_installed(installed: Path):
    expected = {path.relative_to(LAB) for path in (LAB / "easi3r_lab").rglob("*") if path.is_file()}
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert {path for path in expected if "__pycache__" not in path.parts} <= found
    assert {path.parts[0] for path in found} - {"bin"} == {"easi3r_lab", next(installed.glob("*.dist-info")).name}


def test_the_product_finds_its_clips_by_the_entry_point(installed: Path):
    """In a process whose path has the installed laboratory and the product, but not lab/."""
    path = [str(installed), str(ROOT), *(p for p in sys.path if p and not Path(p).is_relative_to(ROOT))]
    code = "from easi3r_ros.io import open_source; print(next(iter(open_source('synthetic:static:1'))).image.shape)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=installed, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(240, 320, 3)", done.stderr


def test_one_version():
    assert easi3r_lab.__version__ == easi3r_ros.__version__


def test_every_import_is_declared():
    """By the product's requirements, or by those that the laboratory adds."""
    files = [*ROOT.glob("requirements*.txt"), LAB / "requirements.txt"]
    lines = [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]
    wanted = {_normalised(re.match(r"[\w.-]+", line)[0]) for line in lines}
    # Of the demo's client and the benches.
    messages = {"diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "rclpy", "sensor_msgs", "std_msgs"}
    providers = packages_distributions()
    for module in _imported(LAB / "easi3r_lab") - messages:
        if module in providers:  # what apt brings has no distribution
            assert {_normalised(name) for name in providers[module]} & wanted, f"'{module}' is in no requirements"


def test_the_robots_requirements_have_nothing_for_the_laboratory_alone():
    added = {
        _normalised(re.match(r"[\w.-]+", line)[0]) for line in (LAB / "requirements.txt").read_text().splitlines()[1:]
    }
    providers = packages_distributions()
    used = {_normalised(name) for module in _imported(ROOT / "easi3r_ros") for name in providers.get(module, [])}
    assert added and not added & used


def test_modules_and_classes_have_names_of_their_own():
    modules, classes = defaultdict(list), defaultdict(list)
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            if path.name != "__main__.py":
                modules[path.parent.name if path.name == "__init__.py" else path.stem].append(path)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    classes[node.name].append(path)
    for kind in (modules, classes):
        twice = {name: paths for name, paths in kind.items() if len(paths) > 1 and name not in SHARED}
        ours = {name: paths for name, paths in twice.items() if any(path.is_relative_to(LAB) for path in paths)}
        assert not ours


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported(package: Path) -> set[str]:
    """Top-level names of everything imported that is neither Python's own nor ours."""
    names: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"easi3r_ros", "easi3r_lab"}
