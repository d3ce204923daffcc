"""The subscriptions to a camera: image topic, QoS and camera_info, and what to tell a person when nothing comes."""

from __future__ import annotations

import math
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    HistoryPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from easi3r_ros.ros.rclpy_gaps import given_parameters
from easi3r_ros.ros.spinning import Gate

try:
    from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import QoSMessageLostInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError

_TYPES = {"raw": Image, "compressed": CompressedImage}
_TYPE_NAMES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}
_MOST_LISTED = 6
SAMPLED = 64  # bytes of an image by which it is known again
LIVE_DEPTH = 10  # images: a busy machine may leave us without a turn for a few of them


@dataclass(frozen=True)
class CameraTopics:
    """Resolved names."""

    image: str
    info: str


def camera_topics(node: Node, transport: str) -> CameraTopics:
    """Names as image_transport makes them: whoever remaps `image` need not remap what belongs to it.

    `image/compressed` (sub-topic) and `camera_info` (sibling) follow a remapped `image` unless remapped themselves.
    """
    base = node.resolve_topic_name("image")
    image = base if transport == "raw" else _remapped(node, "image/compressed") or f"{base}/compressed"
    return CameraTopics(image, _remapped(node, "camera_info") or f"{base.rpartition('/')[0]}/camera_info")


def _remapped(node: Node, name: str) -> str | None:
    resolved = node.resolve_topic_name(name)
    return None if resolved == node.resolve_topic_name(name, only_expand=True) else resolved


def image_qos(bag_mode: bool, publishers: Sequence[TopicEndpointInfo] = ()) -> QoSProfile:
    """bag: reliable, and nothing is replaced before it is read. live: reliable if all the publishers are.

    Best effort fits every publisher, but a raw image is sent in many parts, and the loss of one costs the image.
    """
    if bag_mode:
        return QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
    offered = {publisher.qos_profile.reliability for publisher in publishers}
    reliable = offered == {ReliabilityPolicy.RELIABLE}
    return QoSProfile(
        depth=LIVE_DEPTH, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    )


class LossReport:
    """Words about lost images, now and then: `warn` is called with the first, and once per PERIOD as it goes on."""

    PERIOD = 10.0  # seconds

    def __init__(self, topic: str, advice: str, warn: Callable[[str], None], now: Callable[[], float] = time.monotonic):
        self._topic, self._advice, self._warn, self._now = topic, advice, warn, now
        self._count, self._last = 0, -math.inf

    def lost(self, count: int) -> None:
        self._count += count
        if self._count and self._now() - self._last >= self.PERIOD:
            self._warn(f"{self._count} images on '{self._topic}' were lost before they could be read: {self._advice}")
            self._count, self._last = 0, self._now()


_BAG_ADVICE = "the publisher overwrote them: play more slowly, or publish with a deeper queue"
_LIVE_ADVICE = (
    "the middleware could not deliver them. Raw images need more shared memory than Fast DDS has by itself: start this "
    "node and the camera with FASTRTPS_DEFAULT_PROFILES_FILE set to this package's config/fastdds.xml; or take "
    "compressed images (image_transport: compressed)"
)


class CameraInput:
    """Subscribes to images and camera_info.

    on_image(message): not called while is_ready() says no; in bag mode images then wait in the middleware, whose queue
    holds the publisher back once it is full. `spinning.wake` the node when is_ready changes. on_info(CameraInfo).
    on_lost(count): images that the middleware could not deliver, None, once, if it does not say.
    warn(text): for a person.
    """

    def __init__(
        self,
        node: Node,
        topics: CameraTopics,
        transport: str,
        bag_mode: bool,
        *,
        on_image: Callable[[Any], None],
        is_ready: Callable[[], bool],
        on_info: Callable[[CameraInfo], None],
        on_lost: Callable[[int | None], None],
        warn: Callable[[str], None],
    ):
        self._node = node
        self._transport = transport
        self._bag_mode = bag_mode
        self._warn = warn
        self._count_lost = on_lost
        self._losses = LossReport(topics.image, _BAG_ADVICE if bag_mode else _LIVE_ADVICE, warn)
        self.topics = topics
        self._incompatible: set[bytes] = set()
        self._take, self._is_ready = on_image, is_ready
        given = given_parameters(node) or ()
        self._follows = not bag_mode and self._reliability_parameter not in given
        self._infos: Subscription | None = None
        self._images: Subscription | None = None
        self._former: Subscription | None = None  # until the publishers have found the one that takes its place
        self._seen: deque[tuple[int, int, int]] = deque(maxlen=4 * LIVE_DEPTH)
        try:
            self._open(on_info)
        except Exception:  # the next activation must not find half of it
            self.close()
            raise

    def _open(self, on_info: Callable[[CameraInfo], None]) -> None:
        overridable = QoSOverridingOptions.with_default_policies()
        self._infos = self._node.create_subscription(
            CameraInfo, self.topics.info, on_info, image_qos(False), qos_overriding_options=overridable
        )
        self._qos = image_qos(self._bag_mode, self._publishers())
        self._subscribe()

    def _subscribe(self) -> None:
        """To the images, with the present QoS."""
        # Parameters keep the values of the first subscription: what is followed must not become one.
        policies = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, *([] if self._follows else [QoSPolicyKind.RELIABILITY])]

        def subscribe(events: SubscriptionEventCallbacks) -> Subscription:
            return self._node.create_subscription(
                _TYPES[self._transport],
                self.topics.image,
                self._on_image,
                self._qos,
                callback_group=Gate(self._is_ready),
                event_callbacks=events,
                qos_overriding_options=QoSOverridingOptions(policies),
            )

        # In the group of its images: an event that nobody takes wakes the executor without end, and one that is waited
        # for while the images are not wakes it for each of them.
        try:
            self._images = subscribe(
                SubscriptionEventCallbacks(message_lost=self._on_lost, use_default_callbacks=False)
            )
        except UnsupportedEventTypeError:
            self._count_lost(None)
            self._images = subscribe(SubscriptionEventCallbacks(use_default_callbacks=False))

    def close(self) -> None:
        for subscription in (self._infos, self._images, self._former):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._infos = self._images = self._former = None

    def _publishers(self) -> list[TopicEndpointInfo]:
        return self._node.get_publishers_info_by_topic(self.topics.image)

    def _follow(self, publishers: Sequence[TopicEndpointInfo]) -> None:
        """Ask for what the publishers offer, now that it is known, or that others have come.

        The former subscription stays until the next call, because whoever has not found the new one sends it nothing.
        """
        if self._former is not None:
            self._node.destroy_subscription(self._former)
            self._former = None
            self._seen.clear()
        wanted = image_qos(self._bag_mode, publishers)
        if publishers and wanted.reliability != self._qos.reliability:
            self._qos = wanted
            self._former = self._images
            self._subscribe()

    def _on_image(self, message: Any) -> None:
        if self._follows and self._is_second(message):
            return
        self._take(message)

    def _is_second(self, message: Any) -> bool:
        """Whether an image came by both subscriptions, while there are two. Both are called by one thread."""
        stamp, data = message.header.stamp, memoryview(message.data)
        key = stamp.sec, stamp.nanosec, zlib.crc32(bytes(data[:: max(1, len(data) // SAMPLED)]))
        second = self._former is not None and key in self._seen
        self._seen.append(key)
        return second

    def check(self) -> None:
        """Tell of publishers whose images cannot come since the last call. Cheap."""
        publishers = self._publishers()
        if self._follows and self._images is not None:
            self._follow(publishers)
        self._losses.lost(0)
        unfit = {_identity(publisher) for publisher in publishers if self._misfit(publisher)}
        if unfit - self._incompatible:
            self._warn(self._about_misfit())
        self._incompatible = unfit

    def why_silent(self) -> str:
        """What the graph says about an image topic on which nothing comes, and what to do."""
        publishers = self._publishers()
        if not publishers:
            return f"nobody publishes '{self.topics.image}'. {self._suggestion()}"
        return "; ".join(self._verdict(publisher) for publisher in publishers[:_MOST_LISTED])

    def _on_lost(self, status: QoSMessageLostInfo) -> None:
        self._count_lost(status.total_count_change)
        self._losses.lost(status.total_count_change)

    def _verdict(self, publisher: TopicEndpointInfo) -> str:
        qos = publisher.qos_profile
        who = (
            f"'{_full_name(publisher)}' publishes {publisher.topic_type}, {qos.reliability.name.lower()}, "
            f"{qos.durability.name.lower()} on '{self.topics.image}'"
        )
        if publisher.topic_type != _TYPE_NAMES[self._transport]:
            other = next((name for name, type_ in _TYPE_NAMES.items() if type_ == publisher.topic_type), None)
            todo = f"set image_transport to {other}" if other else "remap `image` to a camera's image topic"
            return f"{who}, but {_TYPE_NAMES[self._transport]} is needed: {todo}"
        if self._misfit(publisher):
            return f"{who}: {self._about_misfit()}"
        return f"{who}, and fits, but sends nothing: check the camera, its driver, or whether the player is paused"

    def _suggestion(self) -> str:
        wanted = _TYPE_NAMES[self._transport]
        own = f"{self._node.get_fully_qualified_name()}/"
        images = [name for name, types in self._node.get_topic_names_and_types() if wanted in types]
        elsewhere = [name for name in images if self._node.count_publishers(name) and not name.startswith(own)]
        if not elsewhere:
            return self._other_transport() or "There are no images on any topic: start the camera"
        name = elsewhere[0].removesuffix("/compressed")
        return f"Images are on: {', '.join(elsewhere[:_MOST_LISTED])}. To use the first: --ros-args -r image:={name}"

    def _other_transport(self) -> str:
        """What to do where images come the other way alone; empty if they do not."""
        other = next(name for name in _TYPES if name != self._transport)
        topics = self._node.get_topic_names_and_types()
        found = [name for name, types in topics if _TYPE_NAMES[other] in types and self._node.count_publishers(name)]
        found = [name for name in found if not name.startswith(f"{self._node.get_fully_qualified_name()}/")]
        if not found:
            return ""
        name, ours = found[0].removesuffix("/compressed"), self.topics.image.removesuffix("/compressed")
        remap = "" if name == ours else f" and remap -r image:={name}"
        return f"There are {other} images on: {', '.join(found[:_MOST_LISTED])}. Set image_transport to {other}{remap}"

    def _misfit(self, publisher: TopicEndpointInfo) -> bool:
        return qos_check_compatible(publisher.qos_profile, self._qos)[0] == QoSCompatibility.ERROR

    @property
    def _reliability_parameter(self) -> str:
        return f"qos_overrides.{self.topics.image}.subscription.reliability"

    def _about_misfit(self) -> str:
        parameter = self._reliability_parameter
        if self._bag_mode:
            return (
                f"the publisher of '{self.topics.image}' is best effort, but bag_mode needs reliable delivery: publish "
                f"reliably, or set bag_mode to false, or set {parameter} to best_effort and accept losses"
            )
        return f"the publisher of '{self.topics.image}' does not offer the QoS asked for: check {parameter}"


def _identity(endpoint: TopicEndpointInfo) -> bytes:
    return bytes(endpoint.endpoint_gid)


def _full_name(endpoint: TopicEndpointInfo) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
