"""The subscriptions to a camera: image topic, QoS and camera_info, and what to tell a person when nothing comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from easi3r_ros.ros.spinning import Gate

try:
    from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import QoSMessageLostInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError

_TYPES = {"raw": Image, "compressed": CompressedImage}
_TYPE_NAMES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}
_MOST_LISTED = 6


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


def image_qos(bag_mode: bool) -> QoSProfile:
    """live: best effort, which every publisher can serve. bag: reliable, and nothing is replaced before it is read."""
    if bag_mode:
        return QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
    return QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


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
        self.topics = topics
        self._qos = image_qos(bag_mode)
        self._incompatible: set[bytes] = set()
        self._subscriptions: list[Subscription] = []
        try:
            self._open(on_image, is_ready, on_info)
        except Exception:  # the next activation must not find half of it
            self.close()
            raise

    def _open(
        self, on_image: Callable[[Any], None], is_ready: Callable[[], bool], on_info: Callable[[CameraInfo], None]
    ) -> None:
        overridable = QoSOverridingOptions.with_default_policies()
        infos = self._node.create_subscription(
            CameraInfo, self.topics.info, on_info, image_qos(False), qos_overriding_options=overridable
        )
        self._subscriptions.append(infos)

        def subscribe(events: SubscriptionEventCallbacks) -> Subscription:
            return self._node.create_subscription(
                _TYPES[self._transport],
                self.topics.image,
                on_image,
                self._qos,
                callback_group=Gate(is_ready),
                event_callbacks=events,
                qos_overriding_options=overridable,
            )

        # In the group of its images: an event that nobody takes wakes the executor without end, and one that is waited
        # for while the images are not wakes it for each of them.
        try:
            images = subscribe(SubscriptionEventCallbacks(message_lost=self._on_lost, use_default_callbacks=False))
        except UnsupportedEventTypeError:
            self._count_lost(None)
            images = subscribe(SubscriptionEventCallbacks(use_default_callbacks=False))
        self._subscriptions.append(images)

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def check(self) -> None:
        """Tell of publishers whose images cannot come since the last call. Cheap."""
        publishers = self._node.get_publishers_info_by_topic(self.topics.image)
        unfit = {_identity(publisher) for publisher in publishers if self._misfit(publisher)}
        if unfit - self._incompatible:
            self._warn(self._about_misfit())
        self._incompatible = unfit

    def why_silent(self) -> str:
        """What the graph says about an image topic on which nothing comes, and what to do."""
        publishers = self._node.get_publishers_info_by_topic(self.topics.image)
        if not publishers:
            return f"nobody publishes '{self.topics.image}'. {self._suggestion()}"
        return "; ".join(self._verdict(publisher) for publisher in publishers[:_MOST_LISTED])

    def _on_lost(self, status: QoSMessageLostInfo) -> None:
        self._count_lost(status.total_count_change)
        if self._bag_mode:
            self._warn(
                f"the publisher of '{self.topics.image}' overwrote images before they could be read: "
                "play more slowly, or publish with a deeper queue"
            )

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
            return "There are no images of this type on any topic: start the camera, or set image_transport"
        name = elsewhere[0].removesuffix("/compressed")
        return f"Images are on: {', '.join(elsewhere[:_MOST_LISTED])}. To use the first: --ros-args -r image:={name}"

    def _misfit(self, publisher: TopicEndpointInfo) -> bool:
        return qos_check_compatible(publisher.qos_profile, self._qos)[0] == QoSCompatibility.ERROR

    def _about_misfit(self) -> str:
        parameter = f"qos_overrides.{self.topics.image}.subscription.reliability"
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
