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
from dataclasses import dataclass
from pathlib import Path

import typer

from easi3r_ros.io import hub as weights

OK, WARN, FAIL = "ok", "warn", "fail"
PYTHONS = ((3, 10), (3, 12))
LIBRARIES = ("numpy", "scipy", "sklearn", "skimage", "safetensors", "rosbags", "av", "evo", "matplotlib")
LOW_DISK_GB = 5.0


@dataclass(frozen=True)
class Finding:
    subject: str
    status: str  # OK, WARN: something is missing that not everybody needs, FAIL: nothing works until it is repaired
    detail: str
    advice: str = ""  # what to do


def examine() -> Iterator[Finding]:
    """One finding after the other; none of them raises."""
    for check in CHECKS:
        try:
            yield check()
        except Exception as error:  # a broken installation may fail in any way, and the other findings still matter
            yield Finding(check.__name__.replace("_", " "), FAIL, f"{type(error).__name__}: {error}", "reinstall it")


def python() -> Finding:
    version = f"{platform.python_version()} ({sys.executable})"
    low, high = PYTHONS
    if sys.version_info < low:
        return Finding("python", FAIL, version, f"use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}")
    if sys.version_info[:2] > high:
        return Finding("python", WARN, version, f"not tested here; tested are {low[0]}.{low[1]} to {high[0]}.{high[1]}")
    return Finding("python", OK, version)


def torch() -> Finding:
    import torch

    return Finding("torch", OK, f"{torch.__version__}, {torch.get_num_threads()} threads")


def cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("cuda", OK, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.version.cuda is None:
        advice = "fine for the classical backbone; for networks install a CUDA build of torch on a machine with a GPU"
        return Finding("cuda", WARN, "torch is a CPU build", advice)
    return Finding("cuda", WARN, f"torch has CUDA {torch.version.cuda}, but no GPU is usable", "look at nvidia-smi")


def libraries() -> Finding:
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("libraries", FAIL, f"missing: {', '.join(missing)}", "pip install -r requirements.txt")
    return Finding("libraries", OK, ", ".join(LIBRARIES))


def opencv() -> Finding:
    import cv2

    return Finding("opencv", OK, cv2.__version__)


def video() -> Finding:
    """Write a short MP4 as the overlay is written, and read it back."""
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
        advice = (
            "needed for the node and for play: source ROS 2, or run scripts/setup; run, verify and weights work without"
        )
        return Finding("ros", WARN, "no ROS 2", advice)
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
    stored = [checkpoint.name for checkpoint in weights.CHECKPOINTS if weights.is_stored(checkpoint)]
    if stored:
        return Finding("checkpoints", OK, f"{', '.join(stored)} in {weights.home()}")
    advice = "the classical backbone needs none; for a network: easi3r weights list"
    return Finding("checkpoints", WARN, f"none in {weights.home()}", advice)


def disk() -> Finding:
    place = weights.home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    detail = f"{free:.1f} GB free at {place}"
    if free < LOW_DISK_GB:
        return Finding("disk", WARN, detail, "a checkpoint takes up to 3 GB; EASI3R_HOME names another place for them")
    return Finding("disk", OK, detail)


CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    torch,
    cuda,
    libraries,
    opencv,
    video,
    ros,
    messages,
    middleware,
    discovery,
    checkpoints,
    disk,
)


COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor() -> None:
    """Check Python, torch, CUDA, ROS, video, checkpoints and disk; exit status 1 if something must be repaired."""

    failed = False
    for finding in examine():
        status = typer.style(f"{finding.status:<4}", fg=COLOURS[finding.status])
        typer.echo(f"{status}  {finding.subject:<12}{finding.detail}")
        if finding.advice:
            typer.echo(f"{'':18}{finding.advice}")
        failed = failed or finding.status == FAIL
    if failed:
        raise typer.Exit(1)
