"""The node for a long time: rendered frames forth and back through the real process, memory and losses watched."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from easi3r_ros.msg import WindowStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from easi3r_lab.demo.client import Published, camera_messages
from easi3r_lab.demo.node_process import NodeProcess, running_node
from easi3r_lab.demo.soak_figures import Counted, Mark, figures, forth_and_back
from easi3r_lab.synthetic import iter_frames, stack_frames
from easi3r_ros.messages.conversions import stamp_ns, time_message

# As somebody who uses the node would: what nobody subscribes to is not made, and could not leak.
_OUTPUTS: dict[str, type] = {
    "mask": Image,
    "pose": PoseWithCovarianceStamped,
    "points/static": PointCloud2,
    "points/dynamic": PointCloud2,
}
_MAP: dict[str, type] = {"map": PointCloud2}
_AHEAD = 2  # frames under way: one in the node's hand, one that waits, so that it never has to
_START_LIMIT = 90.0  # seconds until the node listens
_ANSWER_LIMIT = 30.0  # seconds; a frame without a status by then is counted as unanswered, and the soak goes on
_SETTLING = 1.0  # seconds: discovery has two sides, and only one can be seen
_LAST_WORDS = 2.5  # seconds: diagnostics come once a second
_CLIP_FRAMES, _RATE = 60, 15.0
_FIRST_STAMP_NS = 1_000_000_000  # a stamp of zero means "not set" in ROS


class SoakFailed(RuntimeError):
    """Nothing could be measured; the message says why."""


def run_soak(
    out: Path,
    frames: int = 20_000,
    minutes: float = 60.0,
    every: int = 100,
    size: tuple[int, int] = (320, 240),
    with_map: bool = False,
    node_arguments: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """`frames` images in bag mode, or as many as `minutes` allow; the figures of soak_figures.figures.

    every: frames between two looks at the node's memory, each told to `say`; size: (W, H); with_map: ask for ~/map as
    well, which grows until it has map.max_voxels cells; node_arguments: more of what follows --ros-args. Writes
    node.log into `out`. Raises SoakFailed or NodeFailed.
    """
    out.mkdir(parents=True, exist_ok=True)
    domain_id = 1 + os.getpid() % 100  # away from any robot's; DDS wants 0..101 on Linux
    arguments = ("-p", "bag_mode:=true", *node_arguments)
    with running_node(domain_id, out / "node.log", arguments) as node, _client(domain_id, with_map) as client:
        say(f"rendering {_CLIP_FRAMES} frames at {size[0]} x {size[1]}, while the node starts ...")
        clip = stack_frames(list(iter_frames("walkers", 0, _CLIP_FRAMES, size, _RATE)), "walkers", 0, _RATE)
        client.wait_for_node(node)
        end = time.monotonic() + 60 * minutes
        marks = client.play(camera_messages(clip.images, clip.K, range(len(clip))), frames, every, end, node, say)
        counted = client.last_counts(node)
        node.interrupt()
    return figures(client.latencies_ms, marks, counted, frames)


@contextmanager
def _client(domain_id: int, with_map: bool) -> Iterator[SoakClient]:
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain_id)
    client = SoakClient(context, with_map)
    try:
        yield client
    finally:
        client.destroy_node()
        rclpy.shutdown(context=context)


class SoakClient(Node):
    """Publishes a camera, holds it back to what the node takes, and keeps numbers only, so that it can run for days."""

    def __init__(self, context: Context, with_map: bool, node: str = "easi3r"):
        super().__init__("easi3r_soak", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
        self._image = self.create_publisher(Image, "image", everything)
        self._info = self.create_publisher(CameraInfo, "camera_info", 10)
        self._waiting: dict[int, float] = {}  # stamp -> perf_counter seconds
        self._sent = self._unanswered = 0
        self.latencies_ms: list[float] = []  # wall time from the publication of an image to its status, in order
        self._status: WindowStatus | None = None
        self._input: dict[str, str] = {}
        outputs = _OUTPUTS | (_MAP if with_map else {})
        self._topics = [f"{node}/{name}" for name in [*outputs, "status"]]
        for name, type_ in outputs.items():
            self.create_subscription(type_, f"{node}/{name}", lambda _: None, 10)
        self.create_subscription(WindowStatus, f"{node}/status", self._on_status, 100)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def wait_for_node(self, node: NodeProcess) -> None:
        """Raises SoakFailed if it does not listen within some time."""
        end = time.monotonic() + _START_LIMIT
        while not (self._image.get_subscription_count() and all(map(self.count_publishers, self._topics))):
            node.check()
            if time.monotonic() > end:
                raise SoakFailed(f"the node does not listen after {_START_LIMIT:g} s{node.log_tail()}")
            self._executor.spin_once(timeout_sec=0.1)
        self._spin(_SETTLING)

    def play(
        self,
        clip: list[Published],
        frames: int,
        every: int,
        end: float,
        node: NodeProcess,
        say: Callable[[str], None],
    ) -> list[Mark]:
        """Publish `frames` images of the clip forth and back, or until the monotonic time `end`."""
        marks = []
        for number, index in enumerate(forth_and_back(len(clip), frames)):
            if time.monotonic() > end:
                break
            self._publish(clip[index], _FIRST_STAMP_NS + round(number * 1e9 / _RATE))
            self._wait(_AHEAD - 1)
            if (number + 1) % every == 0:
                node.check()
                marks.append(Mark(number + 1, node.memory_mb(), node.cpu_seconds()))
                recent = sum(self.latencies_ms[-every:]) / max(1, len(self.latencies_ms[-every:]))
                say(f"{number + 1} frames: {marks[-1].memory_mb:.1f} MiB, mean latency {recent:.1f} ms")
        self._wait(0)
        return marks

    def last_counts(self, node: NodeProcess) -> Counted:
        """After the end: what was sent, and what the node says about it."""
        self._input.clear()
        self._spin(_LAST_WORDS)
        if self._status is None or not self._input:
            raise SoakFailed(f"the node said nothing about its images{node.log_tail()}")
        said = {name: int(self._input[name]) for name in ("received", "processed", "dropped", "failed")}
        lost = self._input["lost by the middleware"]
        return Counted(
            sent=self._sent,
            answered=len(self.latencies_ms),
            unanswered=self._unanswered,
            lost=None if lost == "unknown" else int(lost),
            **said,
        )

    def _publish(self, frame: Published, stamp: int) -> None:
        for message in (frame.camera_info, frame.image):
            message.header.stamp = time_message(stamp)
        self._info.publish(frame.camera_info)
        self._waiting[stamp] = time.perf_counter()
        self._image.publish(frame.image)
        self._sent += 1

    def _wait(self, most: int) -> None:
        """Until at most so many frames are under way."""
        while len(self._waiting) > most:
            self._executor.spin_once(timeout_sec=1.0)
            late = [stamp for stamp, sent in self._waiting.items() if time.perf_counter() - sent > _ANSWER_LIMIT]
            for stamp in late:
                del self._waiting[stamp]
                self._unanswered += 1

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def _on_status(self, message: WindowStatus) -> None:
        self._status = message
        sent = self._waiting.pop(stamp_ns(message.header.stamp), None)
        if sent is not None:
            self.latencies_ms.append((time.perf_counter() - sent) * 1e3)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if "lost by the middleware" in values:
                self._input = values
