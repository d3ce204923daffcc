"""The node as a process of its own, and a client that talks to it over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

import rclpy  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from easi3r_ros.messages.conversions import image_message, time_message

WIDTH, HEIGHT, FOCAL = 96, 64, 80.0
FRAME_ID = "cam_optical"
SECOND = 1_000_000_000
PATIENCE = 40.0
PROGRAM = ("-m", "easi3r_ros.ros.node")
ROOT = Path(__file__).resolve().parents[1]


def session_environment() -> dict[str, str]:
    """Discovery on this machine only, in a domain of this session's own."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    return dict(os.environ)


def wait_until(condition, what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience:g} s in vain for: {what}"
        time.sleep(0.005)


class NodeProcess:
    """`python -m easi3r_ros.ros.node` with parameters; everything it says is kept."""

    def __init__(self, name: str = "easi3r", arguments: tuple[str, ...] = (), **parameters):
        self.name = name
        command = [sys.executable, "-u", *PROGRAM, "--ros-args", "-r", f"__node:={name}", *arguments]
        for key, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{key.replace('__', '.')}:={text}"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by close()
        environment = {**session_environment(), "OMP_NUM_THREADS": "1", "RCUTILS_COLORIZED_OUTPUT": "0"}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self._log, stderr=subprocess.STDOUT, text=True
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        # Another description of the same file, so that reading does not move the place where the node writes.
        with open(f"/proc/self/fd/{self._log.fileno()}") as copy:
            return copy.read()

    def said(self, text: str, since: int = 0) -> int:
        """How often a text is in the log after `since` characters."""
        return self.log[since:].count(text)

    def wait_for(self, text: str, since: int = 0) -> None:
        wait_until(lambda: self.said(text, since) or not self.alive, f"the node saying {text!r}; its log:\n{self.log}")
        assert self.said(text, since), f"the node ended without saying {text!r}; its log:\n{self.log}"

    def interrupt(self) -> int:
        """SIGINT, as Ctrl-C and launch send it; the exit status."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(PATIENCE)

    def wait(self) -> int:
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()


class Client:
    """A node of the test's own that records what the one under test sends; spins in a thread."""

    def __init__(self, name: str = "tester"):
        session_environment()
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.received = defaultdict(list)
        self._publishers = {}
        self._clients = {}
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._context.shutdown()
        self._thread.join(PATIENCE)
        self.node.destroy_node()

    def listen(self, type_, topic: str, qos=None, key: str | None = None):
        """Record every message of a topic in `received[key or topic]`."""
        seen = self.received[key or topic]
        return self.node.create_subscription(type_, topic, seen.append, qos or QoSProfile(depth=1000))

    def publisher(self, type_, topic: str, qos=None):
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(type_, topic, qos or QoSProfile(depth=1000))
        return self._publishers[topic]

    def send(self, message, topic: str = "image", qos=None) -> None:
        """Publish as soon as somebody listens."""
        publisher = self.publisher(type(message), topic, qos)
        wait_until(lambda: publisher.get_subscription_count() > 0, f"a subscription to {topic}")
        publisher.publish(message)

    def connect(self, node: str, names: tuple[str, ...], send) -> None:
        """Call `send(index)` until every output has come, so that both sides have found each other; then start afresh.

        Discovery gives no sign that it is complete in both directions, and who is not found yet gets nothing.
        """

        def silent() -> list[str]:
            return [name for name in names if not self.received[f"/{node}/{name}"]]

        for index in range(int(PATIENCE)):
            send(index)
            with suppress(AssertionError):
                wait_until(lambda: not silent(), "every output", patience=1.0)
                break
        assert not silent(), f"nothing from {node} on: {', '.join(silent())}"
        self.quiet(node, names)
        assert self.call(Trigger, f"/{node}/reset", Trigger.Request()).success
        for name in names:
            self.received[f"/{node}/{name}"].clear()

    def quiet(self, node: str, names: tuple[str, ...]) -> None:
        """Wait until nothing more comes."""

        def count() -> int:
            return sum(len(self.received[f"/{node}/{name}"]) for name in names)

        before = -1
        while before != count():
            before = count()
            time.sleep(0.5)

    def call(self, type_, service: str, request):
        client = self._clients.get(service) or self.node.create_client(type_, service)
        self._clients[service] = client
        assert client.wait_for_service(PATIENCE), f"no service {service}"
        future = client.call_async(request)
        wait_until(future.done, f"an answer of {service}")
        return future.result()

    def change_state(self, transition: int, node: str = "easi3r") -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, f"/{node}/change_state", request).success

    def state(self, node: str = "easi3r") -> str:
        return self.call(GetState, f"/{node}/get_state", GetState.Request()).current_state.label

    def set_parameter(self, name: str, value, node: str = "easi3r"):
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, f"/{node}/set_parameters", request).results[0]

    def get_parameter(self, name: str, node: str = "easi3r"):
        return self.call(GetParameters, f"/{node}/get_parameters", GetParameters.Request(names=[name])).values[0]

    def describe_parameter(self, name: str, node: str = "easi3r"):
        request = DescribeParameters.Request(names=[name])
        return self.call(DescribeParameters, f"/{node}/describe_parameters", request).descriptors[0]

    def publishers_of(self, topic: str):
        return self.node.get_publishers_info_by_topic(topic)


def best_effort(depth: int = 10) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


def header(stamp_ns: int, frame_id: str = FRAME_ID) -> Header:
    return Header(stamp=time_message(stamp_ns), frame_id=frame_id)


def picture(index: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(H, W, 3) uint8: a wall 4 m away and a floor, seen by a camera that moves 0.1 m to the right per index."""
    v = np.linspace(-1, 1, height)
    depth = 4 / (1 + 3 * np.clip(v, 0, None))  # of each row
    across = np.outer(depth, np.arange(width) - (width - 1) / 2) / FOCAL + 0.1 * index  # metres
    noise = np.random.default_rng(0).integers(0, 256, (height, 64, 3), dtype=np.uint8)
    texture = cv2.resize(noise, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    rows = np.broadcast_to(1.7 * np.arange(height, dtype=np.float32)[:, None], across.shape)
    columns = np.float32(80 * across)
    return cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def rgb_image(stamp_ns: int, index: int = 0, frame_id: str = FRAME_ID, **size) -> Image:
    return image_message(picture(index, **size), "rgb8", header(stamp_ns, frame_id))


def camera_info(stamp_ns: int = 0, width: int = WIDTH, height: int = HEIGHT, frame_id: str = FRAME_ID) -> CameraInfo:
    f, cx, cy = FOCAL, (width - 1) / 2, (height - 1) / 2
    return CameraInfo(
        header=header(stamp_ns, frame_id),
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )
