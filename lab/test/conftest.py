"""For the tests of the laboratory; `../../test/conftest.py` says the same of the product's."""

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[1]

# Before PyTorch is imported. Threads that wait for the next small operation must not spin: beside other processes on
# two cores that costs ten times the time of the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def registered_laboratory(tmp_path_factory):
    """The entry points of lab/pyproject.toml, where the laboratory is on the path but not installed by pip."""
    if entry_points(group="easi3r_ros.sources", name="synthetic"):
        yield
        return
    tomllib = pytest.importorskip("tomllib", reason="pip install -e lab (this Python cannot read lab/pyproject.toml)")
    groups = tomllib.loads((LAB / "pyproject.toml").read_text())["project"]["entry-points"]
    folder = tmp_path_factory.mktemp("registered")
    info = folder / "easi3r_lab-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: easi3r_lab\nVersion: 0\n")
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
