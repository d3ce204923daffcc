"""What the ROS graph has for a camera: image topics with QoS, calibration and rate, and the parents of frames."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from easi3r_ros.messages.plausible import tf_name
from easi3r_ros.ros.params import NodeConfig
from easi3r_ros.ros.tf import ParentWatch, TfFrames, fitting_mode

TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
PATIENCE = 4.0  # seconds for other nodes to be discovered, on a busy machine
SETTLED = 1.0  # seconds without another topic, after which all are known
MOST_TOPICS = 8  # each subscribed image topic costs the machine its bandwidth

_USUAL_FRAMES = TfFrames(NodeConfig.map_frame, NodeConfig.odom_frame, NodeConfig.base_frame)
_LISTEN = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
_LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass
class SeenTopic:
    """One image topic, and the camera_info beside it."""

    name: str
    type: str
    publishers: list[str]  # full names of their nodes
    reliable: bool  # every publisher
    received: int = 0
    last: Any = None  # the last sensor_msgs/Image or CompressedImage
    info: Any = None  # the last sensor_msgs/CameraInfo
    info_publishers: int = 0


@dataclass
class Survey:
    seconds: float  # during which was listened
    topics: list[SeenTopic] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)  # image topics beyond MOST_TOPICS
    parents: dict[str, set[str]] = field(default_factory=dict)  # frame -> its parents on /tf and /tf_static
    # Of each frame that images have: itself and all above it, and what tf_mode would work, for a person.
    chains: dict[str, list[str]] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)


def survey(seconds: float, image: str = "") -> Survey:
    """Listen for so long; image: to this topic alone. Makes a node of its own, in a context of its own."""
    context = Context()
    rclpy.init(args=[], context=context)
    executor = SingleThreadedExecutor(context=context)
    node = rclpy.create_node("easi3r_doctor", context=context, enable_rosout=False, start_parameter_services=False)
    executor.add_node(node)
    try:
        found = Survey(seconds)
        watch = ParentWatch()
        _hear_transforms(node, found, watch)
        topics = _discover(executor, node, image)
        found.topics, found.unheard = topics[:MOST_TOPICS], [seen.name for seen in topics[MOST_TOPICS:]]
        for seen in found.topics:
            _hear_camera(node, seen)
        _spin(executor, seconds)
        for seen in found.topics:  # who publishes may be known later than that somebody does
            seen.publishers = _names(node, seen.name)
        for frame in {tf_name(seen.last.header.frame_id) for seen in found.topics if seen.last is not None}:
            found.chains[frame], found.modes[frame] = watch.chain(frame), fitting_mode(watch, frame, _USUAL_FRAMES)
        return found
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def _discover(executor: SingleThreadedExecutor, node: Node, image: str) -> list[SeenTopic]:
    """The image topics, once no more of them turn up."""
    topics: list[SeenTopic] = []
    start = settled = time.monotonic()
    while time.monotonic() - start < PATIENCE and not (topics and time.monotonic() - settled > SETTLED):
        _spin(executor, SETTLED / 5)
        found = _image_topics(node, image)
        if len(found) != len(topics):
            topics, settled = found, time.monotonic()
    return topics


def _spin(executor: SingleThreadedExecutor, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)


def _image_topics(node: Node, image: str) -> list[SeenTopic]:
    wanted = node.resolve_topic_name(image) if image else ""
    found = []
    for name, types in sorted(node.get_topic_names_and_types()):
        kind = next((each for each in types if each in TYPES), None)
        publishers = node.get_publishers_info_by_topic(name) if kind else []
        if not publishers or (wanted and name not in (wanted, f"{wanted}/compressed")):
            continue
        reliable = all(each.qos_profile.reliability == ReliabilityPolicy.RELIABLE for each in publishers)
        found.append(SeenTopic(name, kind, _names(node, name), reliable))
    return found


def _names(node: Node, topic: str) -> list[str]:
    publishers = node.get_publishers_info_by_topic(topic)
    return sorted({f"{each.node_namespace.rstrip('/')}/{each.node_name}" for each in publishers})


def _hear_camera(node: Node, seen: SeenTopic) -> None:
    def image(message: Any) -> None:
        seen.last, seen.received = message, seen.received + 1

    def info(message: CameraInfo) -> None:
        seen.info = message

    beside = f"{seen.name.removesuffix('/compressed').rpartition('/')[0]}/camera_info"
    seen.info_publishers = node.count_publishers(beside)
    node.create_subscription(TYPES[seen.type], seen.name, image, _LISTEN)
    node.create_subscription(CameraInfo, beside, info, _LISTEN)


def _hear_transforms(node: Node, found: Survey, watch: ParentWatch) -> None:
    def hear(message: TFMessage, static: bool) -> None:
        watch.hear(message.transforms, static)
        for transform in message.transforms:
            found.parents.setdefault(tf_name(transform.child_frame_id), set()).add(tf_name(transform.header.frame_id))

    node.create_subscription(TFMessage, "/tf", partial(hear, static=False), QoSProfile(depth=100))
    node.create_subscription(TFMessage, "/tf_static", partial(hear, static=True), _LATCHED)
