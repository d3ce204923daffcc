"""Processes to be killed: node, camera, player, subscribers; each a fork of one process that has all imported.

A process of its own per fault, without the seconds that its imports would take each time.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from helpers_ros import PATIENCE, rgb_image, session_environment, wait_until

from easi3r_ros.messages.conversions import time_message

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["torch", "rclpy", "easi3r_ros.ros.node", "easi3r_ros.ros.player", "helpers_node"])
SOON = 2.0  # seconds that an interrupted process has
RATE = 20.0  # images per second of the camera


class Fork:
    """`job(*arguments)` in a process of its own; everything it says is kept."""

    def __init__(self, job, *arguments):
        session_environment()
        os.environ["OMP_NUM_THREADS"] = "1"
        handle, self._log = tempfile.mkstemp(prefix="easi3r_fault_")
        os.close(handle)
        self._process = _FORKS.Process(target=_run, args=(self._log, dict(os.environ), job, arguments), daemon=True)
        self._process.start()

    @property
    def log(self) -> str:
        return Path(self._log).read_text()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def says(self, text: str, patience: float = PATIENCE) -> None:
        wait_until(lambda: text in self.log or not self.alive, f"{text!r} in:\n{self.log}", patience)
        assert text in self.log, f"it ended without {text!r}:\n{self.log}"

    def send(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """As the kernel does when memory is short: no goodbye of any kind."""
        self._process.kill()
        self._process.join(PATIENCE)

    def ends_well(self, number: int = signal.SIGTERM) -> None:
        """Signalled, it ends soon, with status 0 and without a traceback."""
        since = time.monotonic()
        self.send(number)
        self._process.join(PATIENCE)
        seconds = time.monotonic() - since
        assert (self._process.exitcode, "Traceback" in self.log, "terminate" in self.log) == (0, False, False), self.log
        assert seconds < SOON, f"{seconds:.1f} s:\n{self.log}"

    def close(self) -> None:
        if self.alive:
            self.send(signal.SIGCONT)
            self.kill()
        os.unlink(self._log)


def _run(log, environment, job, arguments) -> None:
    os.environ.update(environment)
    with open(log, "wb", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    job(*arguments)


def node(name: str, *arguments: str, pipeline: str = "FakePipeline", most_bytes: int | None = None) -> Fork:
    """The node with a pretended pipeline of this module. most_bytes: of a file, as if the disk were full then."""
    return Fork(_node, name, arguments, pipeline, most_bytes)


def _node(name, arguments, pipeline, most_bytes) -> None:
    from easi3r_ros.ros import signals
    from easi3r_ros.ros.node import main

    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    words = [f"-r__node:={name}", "-ptf_mode:=none", *arguments]
    split = [part for word in words for part in ((word[:2], word[2:]) if word[:2] in ("-r", "-p") else (word,))]
    signals.leave(main(["easi3r", "--ros-args", *split], _pipelines()[pipeline]))


def _pipelines() -> dict:
    """Here, because only the process of the node needs them."""
    from dataclasses import replace

    import numpy as np
    from helpers_node import FakePipeline

    class Stuck(FakePipeline):
        """An image that takes for ever, from the third on."""

        def push(self, frame):
            if frame.index >= 2:
                print("pushing", flush=True)
                time.sleep(1000)
            return super().push(frame)

    class Wall(FakePipeline):
        """4 m away, and nothing moves: a map of it fills a file."""

        def push(self, frame):
            shape = frame.image.shape[:2]
            mask, depth = np.zeros(shape, bool), np.full(shape, 4, np.float32)
            return replace(super().push(frame), mask=mask, depth=depth, confidence=depth)

    return {made.__name__: made for made in (FakePipeline, Stuck, Wall)}


def camera(topic: str, first_ns: int | None = None) -> Fork:
    """A camera that sends until it is killed, with stamps of now, or from first_ns on."""
    return Fork(_camera, topic, first_ns)


def _camera(topic, first_ns) -> None:
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init(args=[])
    publisher = rclpy.create_node("camera").create_publisher(Image, topic, 5)
    message, start = rgb_image(0, frame_id=f"{topic.strip('/').replace('/', '_')}_optical"), time.time_ns()
    for index in range(100_000):
        time.sleep(1 / RATE)
        now = time.time_ns() if first_ns is None else first_ns + time.time_ns() - start
        message.header.stamp = time_message(now)
        publisher.publish(message)
        if index == 0:
            print("sending", flush=True)


def deaf(topic: str, reliable: bool) -> Fork:
    """Somebody who subscribes and never reads."""
    return Fork(_deaf, topic, reliable)


def _deaf(topic, reliable) -> None:
    import rclpy
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init(args=[])
    everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    subscriber = rclpy.create_node("deaf_reliable" if reliable else "deaf")
    subscription = subscriber.create_subscription(Image, topic, lambda _: None, everything if reliable else sensor)
    print("subscribed to", subscription.topic_name, flush=True)
    time.sleep(1000)


def player(topic: str, stamps: list[int], period: float, loop: bool = False) -> Fork:
    """`easi3r play` of images with these stamps, `period` seconds apart."""
    return Fork(_player, topic, stamps, period, loop)


def _player(topic, stamps, period, loop) -> None:
    from rclpy.serialization import serialize_message

    from easi3r_ros.messages.schedule import TimedMessage
    from easi3r_ros.ros.player import PlayOptions, play

    messages = [
        TimedMessage(topic, round(index * period * 1e9), serialize_message(rgb_image(stamp, index)))
        for index, stamp in enumerate(stamps)
    ]
    print("playing", flush=True)
    report = play(messages, {topic: "sensor_msgs/msg/Image"}, PlayOptions(loop=loop, wait=30.0))
    print("played", report.messages, "acknowledged" if report.acknowledged else "unacknowledged", flush=True)
