"""`easi3r doctor`: what works on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from easi3r_ros import libraries
from easi3r_ros.cli.findings import FAIL, OK, WARN, Finding

PYTHONS = ((3, 10), (3, 14))
LOW_DISK_GB = 5.0
LOW_MEMORY_GB = 1.0


def examine() -> Iterator[Finding]:
    """One finding after the other; none of them raises."""
    for check in CHECKS:
        try:
            found = check()
            yield from [found] if isinstance(found, Finding) else found
        except ImportError as error:
            if not libraries.explained(error):  # else it is known already: needed_libraries says so
                yield _broken(check, error)
        except Exception as error:  # a broken installation may fail in any way, and the other findings still matter
            yield _broken(check, error)


def _broken(check: Callable, error: Exception) -> Finding:
    return Finding(check.__name__.replace("_", " "), FAIL, f"{type(error).__name__}: {error}", "reinstall it")


def python() -> Finding:
    version = f"{platform.python_version()} ({sys.executable}{_environment()})"
    low, high = PYTHONS
    if sys.version_info < low:
        return Finding("python", FAIL, version, f"use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}")
    if sys.version_info[:2] > high:
        return Finding("python", WARN, version, f"not tested here; tested are {low[0]}.{low[1]} to {high[0]}.{high[1]}")
    return Finding("python", OK, version)


def _environment() -> str:
    """What kind of environment this Python is: it decides how a missing library is installed."""
    if sys.prefix == sys.base_prefix:
        return ""
    settings = Path(sys.prefix) / "pyvenv.cfg"
    sees = settings.is_file() and "include-system-site-packages = true" in settings.read_text().lower()
    return f", a virtual environment {'with' if sees else 'without'} the system's packages"


def needed_libraries() -> list[Finding]:
    """What nothing works without, imported for real: what is installed may still not fit together."""
    return [_needed_library(library) for library in libraries.REQUIRED]


def _needed_library(library: libraries.Library) -> Finding:
    try:
        module = importlib.import_module(library.module)
    except ModuleNotFoundError as error:
        if error.name == library.module:
            return Finding(library.pip, FAIL, f"missing: {library.use} needs it", libraries.how_to_get(library))
        return Finding(library.pip, FAIL, f"it needs {error.name}, which is missing", f"pip install {error.name}")
    except Exception as error:  # compiled for another NumPy, a missing shared library, ...
        return Finding(library.pip, FAIL, f"{type(error).__name__}: {_first_line(error)}", _repair(library, error))
    if old := libraries.too_old(library):
        return Finding(library.pip, WARN, f"{old} is older than the {library.oldest} that is asked for")
    return Finding(library.pip, OK, str(getattr(module, "__version__", "version not known")))


def _repair(library: libraries.Library, error: Exception) -> str:
    if "numpy" in str(error).lower() or "_ARRAY_API" in str(error):
        return "it was compiled for another major version of NumPy (apt's for NumPy 1): pip install 'numpy<2'"
    return f"reinstall {library.pip}"


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def optional_libraries() -> list[Finding]:
    """What some need: installed or not, what for, and how to get it for this Python."""
    return [_optional_library(library) for library in libraries.OPTIONAL]


def _optional_library(library: libraries.Library) -> Finding:
    if old := libraries.too_old(library):
        return Finding(library.pip, WARN, f"{old} is too old: {library.use}", libraries.how_to_get(library))
    if not _is_there(library.module):
        return Finding(library.pip, WARN, f"not installed: {library.use}", libraries.how_to_get(library))
    return Finding(library.pip, OK, f"{libraries.version(library) or 'version not known'}: {library.use}")


def cuda() -> Finding | list[Finding]:
    if not _is_there("torch"):
        return []
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("cuda", OK, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.version.cuda is None:
        advice = "fine for the classical backbone; for networks install a CUDA build of torch on a machine with a GPU"
        return Finding("cuda", WARN, "torch is a CPU build", advice)
    return Finding("cuda", WARN, f"torch has CUDA {torch.version.cuda}, but no GPU is usable", "look at nvidia-smi")


def video() -> Finding | list[Finding]:
    """Write a short MP4 as the overlay is written, and read it back."""
    if not _is_there("av"):
        return []
    import av
    import numpy as np

    frames = 3
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "test.mp4")
        if "libx264" not in av.codecs_available:
            return Finding("video", WARN, "PyAV has no H.264 encoder (libx264)", "pip install 'av>=12', or --no-video")
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            pictures = [av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")] * frames
            for picture in (*pictures, None):
                container.mux(stream.encode(picture))
        with av.open(path) as container:
            read = sum(1 for _ in container.decode(video=0))
    if read == frames:
        return Finding("video", OK, f"PyAV {av.__version__}: MP4 written and read back")
    return Finding("video", WARN, "PyAV cannot write or read MP4", "pip install --force-reinstall 'av>=12'")


def ros() -> Finding:
    if importlib.util.find_spec("rclpy") is None:
        advice = "needed for the node and for play: source ROS 2, or run scripts/setup; run and weights work without"
        return Finding("ros", WARN, "no ROS 2", advice)
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        return Finding("ros", FAIL, f"rclpy: {_first_line(error)}", libraries.explained(error) or "reinstall ROS 2")
    distribution = os.environ.get("ROS_DISTRO")
    home = f"apt, {distribution}" if distribution else "the wheels"
    location = Path(importlib.util.find_spec("rclpy").origin).parent
    return Finding("ros", OK, f"{home} ({location})")


def messages() -> Finding:
    try:
        importlib.import_module("easi3r_ros.msg")
    except ImportError:
        advice = "needed for the node: colcon build, then source install/setup.bash (or . scripts/env.sh)"
        return Finding("messages", WARN, "easi3r_ros/msg is not built, or not sourced", advice)
    return Finding("messages", OK, "easi3r_ros/msg")


def images() -> Finding:
    return _ros_library("images", "cv_bridge", "reads Bayer and 16-bit colour, own code the rest", "reads all of them")


def clouds() -> Finding:
    return _ros_library("clouds", "sensor_msgs_py", "makes them", "makes them")


def _ros_library(subject: str, name: str, job: str, without: str) -> Finding:
    """A library of ROS that is used where it is, and not missed where it is not."""
    if importlib.util.find_spec("sensor_msgs") is None:
        return Finding(subject, OK, f"no ROS 2: own code {without}")
    from easi3r_ros.messages import ros_libraries

    library = getattr(ros_libraries, name)()
    if library.entry is not None:
        return Finding(subject, OK, f"{name} {job}")
    detail = f"{name} {library.why_not}: own code {without}"
    if library.broken:
        advice = "nothing to do for this package; other nodes may need a reinstallation, or pip install 'numpy<2'"
        return Finding(subject, WARN, detail, advice)
    return Finding(subject, OK, detail)


def middleware() -> Finding:
    chosen = os.environ.get("RMW_IMPLEMENTATION")
    if not chosen:
        return Finding("rmw", OK, "the default of this ROS (RMW_IMPLEMENTATION is not set)")
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    if not any((Path(prefix) / "share" / chosen).is_dir() for prefix in prefixes if prefix):
        return Finding("rmw", FAIL, f"{chosen} is not installed", "install it, or unset RMW_IMPLEMENTATION")
    return Finding("rmw", OK, chosen)


def discovery() -> Finding:
    """ROS_DOMAIN_ID and how far this machine looks for other nodes."""
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    if os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        reach = "LOCALHOST"
    detail = f"ROS_DOMAIN_ID {domain}, range {reach or 'SUBNET (not set)'}"
    if not domain.isdigit() or not 0 <= int(domain) <= 232:
        return Finding("discovery", FAIL, detail, "ROS_DOMAIN_ID must be a number from 0 to 232 (0 to 101 is safe)")
    if reach == "OFF":
        return Finding("discovery", WARN, detail, "no node finds another: unset ROS_AUTOMATIC_DISCOVERY_RANGE")
    if reach == "LOCALHOST":
        return Finding("discovery", OK, f"{detail}: only nodes on this machine are found")
    return Finding("discovery", OK, f"{detail}: every machine on this network with the same domain is found")


def checkpoints() -> Finding:
    from easi3r_ros.io import hub as weights

    stored = [checkpoint.name for checkpoint in weights.CHECKPOINTS if weights.is_stored(checkpoint)]
    if stored:
        return Finding("checkpoints", OK, f"{', '.join(stored)} in {weights.home()}")
    advice = "the classical backbone needs none; for a network: easi3r weights list"
    return Finding("checkpoints", WARN, f"none in {weights.home()}", advice)


def disk() -> Finding:
    from easi3r_ros.io import hub as weights

    place = weights.home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    detail = f"{free:.1f} GB free at {place}"
    if free < LOW_DISK_GB:
        return Finding("disk", WARN, detail, "a checkpoint takes up to 3 GB; EASI3R_HOME names another place for them")
    return Finding("disk", OK, detail)


def memory() -> Finding | list[Finding]:
    """What programs can still have, as Linux estimates it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return []
    if free < LOW_MEMORY_GB:
        return Finding(
            "memory", WARN, f"{free:.1f} GB free", "the classical backbone takes 0.5 GB, a network 4 to 6 GB"
        )
    return Finding("memory", OK, f"{free:.1f} GB free")


def graph(image: str, seconds: float) -> list[Finding]:
    """What other nodes offer; nothing where there is no ROS."""
    if not seconds > 0 or importlib.util.find_spec("rclpy") is None:
        return []
    try:
        from easi3r_ros.cli.graph import judge
        from easi3r_ros.ros.survey import survey

        return judge(survey(seconds, image), image)
    except Exception as error:  # `ros` and the libraries' findings say why, if they know
        if isinstance(error, ImportError):
            return []
        return [Finding("graph", WARN, f"{type(error).__name__}: {_first_line(error)}", "see `ros` and `discovery`")]


CHECKS: tuple[Callable[[], Finding | list[Finding]], ...] = (
    python,
    needed_libraries,
    optional_libraries,
    cuda,
    video,
    ros,
    messages,
    images,
    clouds,
    middleware,
    discovery,
    checkpoints,
    disk,
    memory,
)


def doctor(image: str = "", seconds: float = 2.0) -> None:
    """Check Python, libraries, GPU, memory, ROS, and what the ROS graph has for a camera; each finding with its mend.

    --image: look at this image topic alone. --seconds: how long to listen for images and transforms; 0: not at all.
    Exit status 1: something must be repaired.
    """
    # Works without typer, so that it can say that typer is missing.
    failed = False
    for finding in (*examine(), *graph(image, seconds)):
        finding.show()
        failed = failed or finding.status == FAIL
    if failed:
        sys.exit(1)
