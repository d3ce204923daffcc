"""Publishes recorded messages over DDS, byte for byte, with the timing of the recording."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool

from easi3r_ros.messages.conversions import time_message
from easi3r_ros.messages.schedule import TimedMessage, destinations, paced

log = logging.getLogger(__name__)

# Deep enough that a slow subscriber loses nothing in a burst; a camera driver keeps few.
RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# The subscriber may learn of us later than we of it; what is published before is lost to it if best effort.
SETTLE_SECONDS = 0.3
ACK_SECONDS = 10.0
HOLD_SECONDS = 60.0  # so long a pause lasts that nobody asks for again


class PlayError(RuntimeError):
    """Nothing can be played, or nobody listens; the message says what to do."""


@dataclass(frozen=True)
class PlayOptions:
    rate: float = 1.0  # recorded seconds per second
    loop: bool = False  # start again at the end, with the same stamps
    clock: bool = False  # publish the recorded time on /clock, for nodes with use_sim_time
    reliable: bool = True  # fits every subscriber and loses nothing; False: best effort, as camera drivers do
    wait: float = 0.0  # seconds to wait for a subscriber; 0: start at once
    remap: Mapping[str, str] = field(default_factory=dict)  # recorded topic -> topic to publish on; see destinations()


@dataclass(frozen=True)
class PlayReport:
    messages: dict[str, int]  # per published topic
    seconds: float  # wall time
    latest: float  # seconds by which the latest message came too late
    acknowledged: bool  # every reliable subscriber has everything


def play(
    messages: Iterable[TimedMessage],
    topics: Mapping[str, str],
    options: PlayOptions,
    latched: Collection[str] = (),
) -> PlayReport:
    """Publish all messages.

    topics: recorded topic -> type, such as sensor_msgs/msg/Image; one whose type is not installed is left out with a
    warning. latched: the topics that are kept for who subscribes later. Raises PlayError and RemapError.
    """
    context = rclpy.Context()
    # args: without them rclpy reads the command line of whoever calls.
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("easi3r_player", context=context, start_parameter_services=False)
    try:
        with _Brake(node) as brake:
            return _Player(node, topics, options, latched, brake).run(messages)
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)


class _Brake:
    """The service by which a slow subscriber stops the player for a while, and the time that has passed without it."""

    def __init__(self, node: Node):
        self._go = threading.Event()
        self._go.set()
        self._lock = threading.Lock()
        self._stopped, self._since, self._asked = 0.0, 0.0, 0.0
        self._node = node
        self._service = node.create_service(SetBool, "~/pause", self._answer)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def __enter__(self) -> _Brake:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(1.0)

    def now(self) -> float:
        """Seconds, without those of all pauses. Returns when there is none."""
        while not self._go.wait(max(0.0, self._asked + HOLD_SECONDS - time.monotonic())):
            with self._lock:
                if time.monotonic() - self._asked >= HOLD_SECONDS:  # whoever asked has gone
                    self._release()
        with self._lock:
            return time.monotonic() - self._stopped

    def _release(self) -> None:
        self._stopped += time.monotonic() - self._since
        self._go.set()

    def _answer(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            self._asked = time.monotonic()
            if request.data and self._go.is_set():
                self._since = self._asked
                self._go.clear()
            elif not request.data and not self._go.is_set():
                self._release()
        response.success = True
        return response

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()


class _Player:
    def __init__(
        self, node: Node, topics: Mapping[str, str], options: PlayOptions, latched: Collection[str], brake: _Brake
    ):
        self._options, self._brake = options, brake
        self._publishers = self._make_publishers(node, topics, latched)
        self._clock = node.create_publisher(Clock, "/clock", BEST_EFFORT) if options.clock else None
        self._sent: Counter[str] = Counter()
        self._latest = 0.0

    def run(self, messages: Iterable[TimedMessage]) -> PlayReport:
        if self._options.wait > 0:
            self._wait_for_subscriber()
        start = time.monotonic()
        self._play_once(messages)
        while self._options.loop:
            self._play_once(messages)
        seconds = time.monotonic() - start
        return PlayReport(dict(self._sent), seconds, self._latest, self._all_acknowledged())

    def _make_publishers(
        self, node: Node, topics: Mapping[str, str], latched: Collection[str]
    ) -> dict[str, list[Publisher]]:
        usual = RELIABLE if self._options.reliable else BEST_EFFORT
        places, publishers = destinations(topics, self._options.remap), {}
        for topic, name in topics.items():
            message_class = find_class(name)
            if message_class is None:
                log.warning("'%s' is left out: its type %s is not installed", topic, name)
                continue
            qos = LATCHED if topic in latched else usual
            try:
                publishers[topic] = [node.create_publisher(message_class, place, qos) for place in places[topic]]
            except InvalidTopicNameException as error:
                raise PlayError(f"'{topic}' cannot be published: {error}") from error
        if not publishers:
            raise PlayError("nothing to play: none of the message types is installed")
        return publishers

    @property
    def _all_publishers(self) -> list[Publisher]:
        return [publisher for publishers in self._publishers.values() for publisher in publishers]

    def _wait_for_subscriber(self) -> None:
        deadline = time.monotonic() + self._options.wait
        while not any(publisher.get_subscription_count() for publisher in self._all_publishers):
            if time.monotonic() > deadline:
                names = ", ".join(publisher.topic_name for publisher in self._all_publishers)
                raise PlayError(
                    f"nobody subscribed to {names} within {self._options.wait:g} s: is the other node running, with "
                    "the same ROS_DOMAIN_ID, and does it listen to these topics?"
                )
            time.sleep(0.02)
        time.sleep(SETTLE_SECONDS)

    def _play_once(self, messages: Iterable[TimedMessage]) -> None:
        playable = (message for message in messages if message.topic in self._publishers)
        for message, late in paced(
            playable, self._options.rate, self._publish_clock if self._clock else None, self._brake.now
        ):
            for publisher in self._publishers[message.topic]:
                publisher.publish(message.data)
                self._sent[publisher.topic_name] += 1
            self._latest = max(self._latest, late)

    def _publish_clock(self, time_ns: int) -> None:
        self._clock.publish(Clock(clock=time_message(time_ns)))

    def _all_acknowledged(self) -> bool:
        """Leaving earlier would take away what is still on its way."""
        patience = Duration(seconds=ACK_SECONDS)
        return not self._options.reliable or all(p.wait_for_all_acked(patience) for p in self._all_publishers)


def find_class(name: str) -> Any | None:
    """The class of a message type such as sensor_msgs/msg/Image; None if it is not installed."""
    package, kind, message = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), message, None)
    except ImportError:
        return None
