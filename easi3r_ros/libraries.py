"""The Python libraries that are used, what for, and the sentence for one that is not there.

Only the standard library is imported here. Version bounds are in requirements.txt, requirements-optional.txt and
pyproject.toml (`LARGE`).
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    module: str  # what is imported
    pip: str  # its name on PyPI
    apt: str  # its package in Debian and Ubuntu; empty: not to be had there, or too old in those that ROS 2 runs on
    use: str  # needed for ...
    oldest: str = ""  # checked where it is imported, because older ones fail in ways that nobody understands


REQUIRED = (
    Library("torch", "torch", "", "everything", oldest="2.5"),
    Library("numpy", "numpy", "python3-numpy", "everything"),
    Library("cv2", "opencv-python-headless", "python3-opencv", "everything"),
    Library("scipy", "scipy", "python3-scipy", "everything"),
    Library("PIL", "pillow", "python3-pil", "everything"),
    Library("yaml", "PyYAML", "python3-yaml", "parameter and calibration files"),
)
OPTIONAL = (
    Library("typer", "typer", "", "the command line 'easi3r'", oldest="0.15.4"),
    Library("rich", "rich", "python3-rich", "progress bars of the command line 'easi3r'", oldest="12.2"),
    Library("rosbags", "rosbags", "", "bags, 'easi3r play', and messages where no ROS 2 is sourced"),
    Library("av", "av", "", "videos: as input, and the overlay of 'easi3r run'", oldest="12"),
    Library("natsort", "natsort", "python3-natsort", "folders of images"),
    Library("pillow_heif", "pillow-heif", "", "HEIC pictures of phones in folders of images"),
    Library("safetensors", "safetensors", "", "checkpoints in .safetensors files"),
    Library("sklearn", "scikit-learn", "python3-sklearn", "motion.mode paper: the published clustering"),
    Library("skimage", "scikit-image", "python3-skimage", "motion.mode paper: the published threshold"),
)
# Large, and wanted by few: not in requirements-optional.txt, an extra of its own each.
LARGE = (
    Library("rerun", "rerun-sdk", "", "the viewer (easi3r run --viewer rerun)", oldest="0.24"),
    Library("sam2", "sam2", "", "motion.refine sam2", oldest="1.1"),
)


class MissingLibrary(ImportError):
    """A library is not installed, or too old; the message says what it is for and how to get it."""


@contextmanager
def needed(module: str) -> Iterator[None]:
    """Around the imports of an optional library: what is missing, is said in a sentence.

    module: a `module` of the tables above. Raises MissingLibrary; any other error of the imports passes through, so
    that a library which is there but broken speaks for itself.
    """
    library = known(module)
    if library is None:
        raise KeyError(f"no library {module!r} in the tables of {__name__}")
    if found := too_old(library):
        raise MissingLibrary(sentence(library, found), name=module)
    try:
        yield
    except ModuleNotFoundError as error:
        if known(error.name) is not library:
            raise
        raise MissingLibrary(sentence(library), name=module) from error


def known(module: str | None) -> Library | None:
    """The library that a module, such as `sklearn.cluster`, belongs to; None for all others."""
    top = (module or "").partition(".")[0]
    return next((library for library in (*REQUIRED, *OPTIONAL, *LARGE) if library.module == top), None)


def version(library: Library) -> str:
    """The installed version as its metadata says; empty where there is none (OpenCV from apt) or no library."""
    try:
        return importlib.metadata.version(library.pip)
    except importlib.metadata.PackageNotFoundError:
        return ""


def too_old(library: Library) -> str:
    """The installed version, if it is older than what works; else empty."""
    found = version(library)
    return found if found and library.oldest and _numbers(found) < _numbers(library.oldest) else ""


def explained(error: ImportError) -> str:
    """What to do about an import that failed, for people; empty where nothing is known about it."""
    if isinstance(error, MissingLibrary):
        return str(error)
    name = error.name or ""
    if name == "rclpy" or name.startswith("rclpy."):
        return _ros_sentence(name)
    if name.startswith("_rclpy"):  # it is there, but a library of ROS is not found
        return f"ROS 2 cannot be loaded ({str(error).splitlines()[0]}): source its setup.bash"
    library = known(name)
    # A part of a library that is there: this is not about what is installed.
    return sentence(library) if library is not None and name == library.module else ""


def sentence(library: Library, found: str = "") -> str:
    """found: the version that is too old; empty: the library is missing."""
    wrong = f"{library.pip} {found} is too old" if found else f"{library.pip} is not installed"
    return f"{wrong} for {sys.executable}: {library.use} needs it. {how_to_get(library)}"


def how_to_get(library: Library) -> str:
    """For the Python that runs: with pip in a virtual environment, else with apt if that has it."""
    if sys.prefix == sys.base_prefix and library.apt and shutil.which("apt-get"):
        return f"Install it: sudo apt install {library.apt}"
    wanted = f"'{library.pip}>={library.oldest}'" if library.oldest else library.pip
    if sys.prefix == sys.base_prefix:
        return f"Install it into a virtual environment (docs/install.md): pip install {wanted}"
    if library.module == "torch":
        return "Install it: pip install torch --index-url https://download.pytorch.org/whl/cpu (docs/install.md)"
    return f"Install it: pip install {wanted}"


def _ros_sentence(name: str) -> str:
    if name == "rclpy":
        return "ROS 2 is not sourced: source /opt/ros/DISTRIBUTION/setup.bash (without an apt ROS 2: docs/install.md)"
    python = f"{sys.executable} is Python {sys.version_info.major}.{sys.version_info.minor}"
    return f"ROS 2 was built for another Python ({python}): use the system's, or a virtual environment made with it"


def _numbers(text: str) -> tuple[int, ...]:
    """Leading numbers of a version, to compare: "0.12.5rc1" -> (0, 12, 5)."""
    return tuple(int(number) for number in re.match(r"[\d.]*", text)[0].split(".") if number)
