"""How many live images reach the node and what becomes of them, by size, rate, reliability and load: real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor

from easi3r_lab.demo.node_process import running_node
from easi3r_ros.messages.stand_ins import message_folder

SIZES = {"480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
SETTLE = 3.0  # seconds: two diagnostics after the last image
BURN = "while True: pass"


@dataclass(frozen=True)
class Case:
    size: str  # of SIZES
    rate: float  # images per second
    reliable: bool  # what the camera offers
    busy: bool  # all cores have another process to run


@dataclass(frozen=True)
class Outcome:
    sent: int
    rate: float  # that the camera reached
    received: int
    processed: int
    dropped: int  # replaced by a newer one: the worker was busy
    lost: int | None  # by the middleware; None: it does not say


def profile() -> Path:
    """Fast DDS with shared memory for raw images, as this package ships it."""
    return message_folder().parent / "config" / "fastdds.xml"


def measure(case: Case, seconds: float, domain_id: int, with_profile: bool) -> Outcome:
    """Run a camera and the node for so long."""
    if with_profile:
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(profile())
    os.environ |= {"ROS_DOMAIN_ID": str(domain_id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    count = round(seconds * case.rate)
    width, height = SIZES[case.size]
    reliability = "reliable" if case.reliable else "best_effort"
    arguments = [str(value) for value in (width, height, case.rate, count, reliability)]
    with tempfile.TemporaryDirectory() as folder, running_node(domain_id, Path(folder) / "log") as node:
        with listening() as diagnostics, burning(os.cpu_count() or 1 if case.busy else 0):
            camera = [sys.executable, "-m", "easi3r_lab.demo.transport_camera", *arguments]
            reached = subprocess.run(camera, capture_output=True, text=True, check=True).stdout
            end = time.monotonic() + SETTLE
            while time.monotonic() < end:
                diagnostics.spin()
            node.check()
            values = diagnostics.values
        node.interrupt()
    lost = values.get("lost by the middleware", "unknown")
    numbers = [int(values.get(name, 0)) for name in ("received", "processed", "dropped")]
    return Outcome(count, float(reached), *numbers, int(lost) if lost.isdigit() else None)


class Listener:
    """What the node says about its input."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("bench_listener", context=self._context)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._heard, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def spin(self) -> None:
        self._executor.spin_once(timeout_sec=0.2)

    def close(self) -> None:
        self._node.destroy_node()
        self._context.shutdown()

    def _heard(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(": input"):
                self.values = {value.key: value.value for value in status.values}


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def burning(processes: int) -> Iterator[None]:
    """So many processes that take whatever CPU they get."""
    started = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def cases(
    sizes: Sequence[str], rates: Sequence[float], reliabilities: Sequence[bool], loads: Sequence[bool]
) -> list[Case]:
    return [Case(s, r, reliable, busy) for s in sizes for r in rates for reliable in reliabilities for busy in loads]
