"""Publishes recorded messages over DDS, byte for byte, with the timing of the recording."""

from __future__ import annotations

import importlib
import logging
import struct
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from easi3r_ros.messages.conversions import stamp_ns, time_message
from easi3r_ros.messages.schedule import IMAGES, TimedMessage, destinations, paced
from easi3r_ros.ros.pulled import Pulled

log = logging.getLogger(__name__)

# Deep enough that a slow subscriber loses nothing in a burst; a camera driver keeps few.
RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# The subscriber may learn of us later than we of it; what is published before is lost to it if best effort.
SETTLE_SECONDS = 0.3
ACK_SECONDS = 10.0
# A held player is so many images ahead of the node, or so many bytes. The node's middleware keeps them: it confirms an
# image when it has it, not when the node took it, and what it cannot keep is lost.
AHEAD, AHEAD_BYTES = 50, 64_000_000
HOLD_PATIENCE = 60.0  # seconds without a status; then images are refused, or it is not the node that plays along


class PlayError(RuntimeError):
    """Nothing can be played, or nobody listens; the message says what to do."""


@dataclass(frozen=True)
class PlayOptions:
    rate: float = 1.0  # recorded seconds per second
    loop: bool = False  # start again at the end, with the same stamps
    clock: bool = False  # publish the recorded time on /clock, for nodes with use_sim_time
    reliable: bool = True  # fits every subscriber and loses nothing; False: best effort, as camera drivers do
    wait: float = 0.0  # seconds to wait for a subscriber; 0: start at once
    hold: str = ""  # topic of a node's status: do not run ahead of that node, which is in bag_mode; empty: nobody's
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
        return _Player(node, topics, options, latched).run(messages)
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)


class _Player:
    def __init__(self, node: Node, topics: Mapping[str, str], options: PlayOptions, latched: Collection[str]):
        self._options = options
        self._publishers = self._make_publishers(node, topics, latched)
        self._images = {topic for topic, name in topics.items() if name in IMAGES}
        self._leash = Leash(node, options.hold) if options.hold else None
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
        for message, late in paced(playable, self._options.rate, self._publish_clock if self._clock else None):
            if self._leash and message.topic in self._images:
                self._leash.lead(message.data)
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


class Leash:
    """Holds a player back to what a node has processed."""

    def __init__(self, node: Node, topic: str):
        """topic: the node's ~/status. Raises PlayError if the messages of this package are not built."""
        status = find_class("easi3r_ros/msg/WindowStatus")
        if status is None:
            raise PlayError(f"'{topic}' cannot be read: the messages of easi3r_ros are not built, or not sourced")
        self._status = Pulled(node, status, topic, QoSProfile(depth=1000), overridable=False)
        self._ahead: deque[tuple[int, int]] = deque()  # (stamp, bytes) of images on their way
        self._bytes = 0
        self._given_up = False

    def lead(self, image: bytes) -> None:
        """Before an image (CDR) is published; returns when there is room for it."""
        since = time.monotonic()
        while not self._given_up and (len(self._ahead) >= AHEAD or self._bytes > AHEAD_BYTES):
            if self._hear():
                since = time.monotonic()
            elif not self._status.publishers or time.monotonic() - since > HOLD_PATIENCE:
                self._given_up = True
                log.warning("'%s' says nothing: playing on without waiting for it", self._status.topic)
            else:
                time.sleep(0.005)
        self._ahead.append((_stamp_of(image), len(image)))
        self._bytes += len(image)

    def _hear(self) -> bool:
        """Whether a status came. One about an image is about all before it, too: some are refused."""
        came = [stamp_ns(message.header.stamp) for message in self._status.take()]
        for stamp in came:
            while any(sent == stamp for sent, _ in self._ahead):
                self._bytes -= self._ahead.popleft()[1]
        return bool(came)


def _stamp_of(message: bytes) -> int:
    """Of a CDR message that begins with a std_msgs/Header, in ns."""
    seconds, nanoseconds = struct.unpack_from("<iI" if message[1] & 1 else ">iI", message, 4)
    return seconds * 1_000_000_000 + nanoseconds


def find_class(name: str) -> Any | None:
    """The class of a message type such as sensor_msgs/msg/Image; None if it is not installed."""
    package, kind, message = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), message, None)
    except ImportError:
        return None
