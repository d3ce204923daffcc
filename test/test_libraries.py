"""Optional libraries: the node runs without them, what needs one says so, and the tables agree with the manifests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_io import camera_bag, write_video

from easi3r_ros import libraries
from easi3r_ros.cli import doctor
from easi3r_ros.libraries import LARGE, OPTIONAL, REQUIRED, Library, MissingLibrary, explained, needed, sentence

ROOT = Path(__file__).resolve().parents[1]
ABSENT = Library("no_such_module", "no-such-package", "python3-no-such", "this test", oldest="2.0")

# Makes the modules named in its first argument impossible to import, then runs the rest of its code.
WITHOUT = """
import sys

class Blocker:
    names = set(filter(None, sys.argv.pop(1).split(",")))
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
# find_spec, which looks without importing, must not see them either.
import importlib.util
_find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in Blocker.names else _find_spec(name, *rest)
"""
COMMAND = WITHOUT + "from easi3r_ros.cli import main\nmain()\n"
FRAMES = """
import numpy as np
from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Frame

pipeline = Pipeline(PipelineConfig())
noise = np.random.default_rng(0).integers(0, 256, (120, 176, 3), dtype=np.uint8)
for index in range(2):
    result = pipeline.push(Frame(index, index * 33_000_000, "camera", np.roll(noise, index, axis=1)))
assert result.mask.shape == (120, 176), result.mask.shape
print("a frame with", pipeline.backbone.name)
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)


def easi3r_without(modules: str, *arguments: object) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the command line where `modules` (a comma between them) are missing."""
    done = python(COMMAND, modules, *arguments)
    return done.returncode, done.stdout, done.stderr


def requirements(name: str) -> dict[str, str]:
    """Name -> lower bound of every line, the first where there are several."""
    lines = re.findall(r"^([\w-]+)>=([\d.]+)", (ROOT / name).read_text(), re.MULTILINE)
    return dict(reversed(lines))


@pytest.mark.parametrize(
    ("table", "file"),
    [(REQUIRED, "requirements.txt"), (OPTIONAL, "requirements-optional.txt")],
    ids=["needed", "optional"],
)
def test_tables_agree_with_the_requirements(table, file):
    listed = requirements(file)
    assert {library.pip for library in table} == set(listed)
    for library in table:
        assert library.oldest in ("", listed[library.pip]), f"{library.pip}: two lower bounds"


def test_what_is_large_is_an_extra_of_its_own():
    """And says how to get it where it is missing."""
    files = {"rerun-sdk": "requirements-viewer.txt", "sam2": "requirements-sam2.txt"}
    for library in LARGE:
        assert requirements(files[library.pip]) == {library.pip: library.oldest}
        assert f"pip install '{library.pip}>={library.oldest}'" in sentence(library)


def test_tables_agree_with_the_manifest():
    """rosdep's keys are named as Debian's packages. What is optional, rosdep does not install."""
    manifest = (ROOT / "package.xml").read_text()
    keys = set(re.findall(r"<exec_depend>(python3-[\w-]+)<", manifest))
    assert keys == {library.apt for library in REQUIRED if library.apt}


def test_the_node_and_a_frame_need_nothing_optional():
    modules = ",".join(library.module for library in OPTIONAL)
    done = python(WITHOUT + FRAMES, f"{modules},easi3r_lab")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "a frame with classical"


def test_importing_the_node_needs_nothing_optional():
    pytest.importorskip("rclpy")
    pytest.importorskip("easi3r_ros.msg", reason="the messages are not built: make setup")
    modules = ",".join(library.module for library in OPTIONAL)
    done = python(f"{WITHOUT}import easi3r_ros.ros.node\n", f"{modules},easi3r_lab")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A clip, a bag, a folder of images and checkpoints, by the names that the table below uses."""
    import cv2
    from helpers_dust3r import SMALL

    from easi3r_ros.core.dust3r.generated import write_generated_checkpoint

    folder = tmp_path_factory.mktemp("inputs")
    write_video(folder / "clip.mp4", 3, size=(96, 64))
    camera_bag(folder / "bag", 2)
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "1.png"), np.zeros((64, 96, 3), np.uint8))
    write_generated_checkpoint(SMALL, folder / "network.pth")
    (folder / "hub").mkdir()
    (folder / "hub" / "config.json").write_text("{}")
    (folder / "hub" / "model.safetensors").write_bytes(b"weights")
    return folder


PAPER = ("--checkpoint", "network.pth", "--set", "motion.cue=attention", "--set", "motion.mode=paper")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ("run", "clip.mp4", "--out", "out")),
        ("rerun", ("run", "clip.mp4", "--out", "out", "--viewer", "rerun")),
        ("rich", ("run", "clip.mp4", "--out", "out")),
        ("rosbags", ("run", "clip.mp4", "--out", "out")),
        ("rosbags", ("run", "bag", "--out", "out", "--no-bag")),
        ("rosbags", ("play", "bag")),
        ("rosbags", ("play", "clip.mp4")),
        ("natsort", ("run", "images", "--out", "out")),
        ("safetensors", ("run", "clip.mp4", "--out", "out", "--checkpoint", "hub")),
        ("sklearn", ("run", "clip.mp4", "--out", "out", *PAPER)),
        ("skimage", ("run", "clip.mp4", "--out", "out", *PAPER)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[:2]),
)
def test_a_command_says_what_it_lacks(inputs, tmp_path, module, arguments):
    places = {name: inputs / name for name in ("clip.mp4", "bag", "images", "network.pth", "hub")}
    code, _, err = easi3r_without(module, *({**places, "out": tmp_path}.get(word, word) for word in arguments))
    library = libraries.known(module)
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert line.startswith(
        f"error: {library.pip} is not installed for {sys.executable}: {library.use} needs it. Install"
    )
    assert code == 2 and "Traceback" not in err
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_a_video_without_a_bag_needs_no_rosbags_beside_ros(inputs, tmp_path):
    pytest.importorskip("easi3r_ros.msg", reason="the messages are not built: make setup")
    code, out, err = easi3r_without("rosbags", "run", inputs / "clip.mp4", "--out", tmp_path, "--no-bag")
    assert code == 0, err
    assert "3 frames" in out


@pytest.mark.parametrize(("table", "status", "code"), [(OPTIONAL, "warn", 0), (REQUIRED, "fail", 1)])
def test_doctor_says_how_to_get_what_is_missing(table, status, code):
    """Also typer, which the command line itself is made with."""
    found, out, err = easi3r_without(",".join(library.module for library in table), "doctor")
    lines = out.splitlines()
    for library in table:
        (at,) = [number for number, line in enumerate(lines) if line.split()[1] == library.pip]
        assert lines[at].split()[0] == status and library.use in lines[at]
        assert lines[at + 1].strip() == libraries.how_to_get(library)
    assert found == code and not err, out + err


def test_doctor_tells_a_broken_library_from_a_missing_one(monkeypatch, capsys):
    def broken(name):
        if name == "cv2":
            raise ImportError("numpy.core.multiarray failed to import\nand much more")
        if name == "scipy":
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        return real(name)

    real = doctor.importlib.import_module
    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    findings = {finding.subject: finding for finding in doctor.needed_libraries()}
    assert findings["numpy"].status == doctor.OK
    opencv, scipy = findings["opencv-python-headless"], findings["scipy"]
    assert (opencv.status, opencv.detail) == (doctor.FAIL, "ImportError: numpy.core.multiarray failed to import")
    assert "pip install 'numpy<2'" in opencv.advice
    assert (scipy.status, scipy.detail) == (doctor.FAIL, "it needs numpy, which is missing")


@pytest.fixture
def absent(monkeypatch) -> Library:
    monkeypatch.setattr(libraries, "OPTIONAL", (ABSENT, *OPTIONAL))
    return ABSENT


def test_missing_library_is_explained(absent, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/venv")
    with pytest.raises(MissingLibrary) as caught, needed("no_such_module"):
        import no_such_module.part  # noqa: F401
    assert str(caught.value) == (
        f"no-such-package is not installed for {sys.executable}: this test needs it. "
        "Install it: pip install 'no-such-package>=2.0'"
    )
    assert explained(caught.value) == str(caught.value)


def test_outside_of_a_virtual_environment_it_comes_from_apt(absent, monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(libraries.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert libraries.how_to_get(absent) == "Install it: sudo apt install python3-no-such"
    monkeypatch.setattr(libraries.shutil, "which", lambda name: None)
    assert "into a virtual environment (docs/install.md): pip install" in libraries.how_to_get(absent)


def test_an_old_library_is_refused_before_it_is_imported(absent, monkeypatch):
    monkeypatch.setattr(libraries.importlib.metadata, "version", lambda name: "1.9.3rc1")
    with pytest.raises(MissingLibrary, match=r"no-such-package 1\.9\.3rc1 is too old for"), needed("no_such_module"):
        raise AssertionError("the block ran")
    for version in ("2.0", "2.0.1", "10.0"):
        monkeypatch.setattr(libraries.importlib.metadata, "version", lambda name, version=version: version)
        with needed("no_such_module"):
            pass


def test_a_broken_library_speaks_for_itself(absent):
    with pytest.raises(ModuleNotFoundError, match="other_module") as caught, needed("no_such_module"):
        raise ModuleNotFoundError("No module named 'other_module'", name="other_module")
    assert not isinstance(caught.value, MissingLibrary) and explained(caught.value) == ""
    with pytest.raises(KeyError), needed("not_in_any_table"):
        pass


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torch", "torch is not installed for"),
        ("rclpy", "ROS 2 is not sourced"),
        ("rclpy._rclpy_pybind11", "ROS 2 was built for another Python"),
        ("_rclpy_pybind11", "ROS 2 cannot be loaded (message): source its setup.bash"),
        ("scipy._missing_part", ""),
        (None, ""),
    ],
)
def test_failed_imports_of_the_node_are_explained(name, words):
    answer = explained(ModuleNotFoundError("message", name=name))
    assert answer.startswith(words) and bool(answer) == bool(words)


@pytest.mark.parametrize("module", ["torch", "rclpy"])
def test_the_installed_program_says_what_the_node_lacks(module):
    if module == "torch":
        pytest.importorskip("rclpy", reason="no ROS 2 here, and that is said first")
    code = f"{WITHOUT}exec(compile(open('scripts/node').read(), 'scripts/node', 'exec'))\n"
    done = python(code, module)
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {explained(ModuleNotFoundError(name=module))}"
