"""What comes in beside the images and goes out with the mask: depth images, masks of others, the robot's body."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from easi3r_ros.core.config import ConfigError
from easi3r_ros.core.types import FrameResult
from easi3r_ros.messages.conversions import stamp_ns
from easi3r_ros.messages.images import ConversionError
from easi3r_ros.messages.masked import external_mask, fitted, with_header, without_movers
from easi3r_ros.messages.message_types import CameraInfo, Header
from easi3r_ros.messages.pairing import LatestByStamp, Pairing
from easi3r_ros.messages.stacks import DEPTH_TOPICS, stack_messages
from easi3r_ros.ros.inputs import image_qos
from easi3r_ros.ros.outputs import Outputs
from easi3r_ros.ros.params import NodeConfig
from easi3r_ros.ros.spinning import Gate, wake

_FEW = 20  # masks without a depth image before somebody is told


class MaskInput:
    """The masks of others: where an image is not to be looked at. warn(text): for a person."""

    def __init__(self, node: LifecycleNode, config: NodeConfig, warn: Callable[[str], None]):
        self._node, self._warn = node, warn
        self._match, self._wait = config.external_mask, config.external_mask_wait
        self._body_file = config.body_mask
        self._body: np.ndarray | None = None  # (H, W) bool
        self._masks: LatestByStamp[Any] = LatestByStamp()
        self._subscription: Subscription | None = None

    def open(self) -> None:
        """Raises ConfigError for a file that is no mask, RuntimeError for a QoS override that does not exist."""
        self._body = _body_mask(self._body_file) if self._body_file else None
        if self._match == "none":
            return
        # A latched mask is sent once, to who asks for what was sent before; a detector's is sent and gone.
        latched = DurabilityPolicy.TRANSIENT_LOCAL if self._match == "latest" else DurabilityPolicy.VOLATILE
        reliable = ReliabilityPolicy.RELIABLE if self._match == "latest" else ReliabilityPolicy.BEST_EFFORT
        self._subscription = self._node.create_subscription(
            Image,
            "external_mask",
            lambda message: self._masks.put(stamp_ns(message.header.stamp), message),
            QoSProfile(depth=5, durability=latched, reliability=reliable),
            callback_group=MutuallyExclusiveCallbackGroup(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def close(self) -> None:
        self._masks.stop_waiting()
        if self._subscription:
            self._node.destroy_subscription(self._subscription)

    def body(self, size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) bool, True where the camera sees the robot; None: nowhere. size: (W, H) of the images."""
        return None if self._body is None else self._fitted(self._body, size, f"body_mask '{self._body_file}'")

    def excluded(self, stamp: int, size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) bool of everything that others exclude in the image of this stamp; None: nobody says anything."""
        return _either(self.body(size), self._external(stamp, size))

    def _external(self, stamp: int, size: tuple[int, int]) -> np.ndarray | None:
        if self._match == "none":
            return None
        message = self._masks.latest() if self._match == "latest" else self._masks.at(stamp, self._wait)
        if message is None:
            self._warn(self._about_missing())
            return None
        try:
            mask = external_mask(message)
        except ConversionError as error:
            self._warn(f"'{self._topic}' is left out: {error}")
            return None
        return self._fitted(mask, size, f"the mask on '{self._topic}'")

    @property
    def _topic(self) -> str:
        return self._node.resolve_topic_name("external_mask")

    def _about_missing(self) -> str:
        if not self._node.count_publishers(self._topic):
            return f"no external mask: nobody publishes '{self._topic}'; remap `external_mask`, or set it to none"
        if self._match == "latest":
            return f"no external mask yet: '{self._topic}' has a publisher, but nothing came"
        return (
            f"images are processed without an external mask: none on '{self._topic}' has their stamp within "
            f"{self._wait:g} s; set external_mask_wait higher, or external_mask to latest"
        )

    def _fitted(self, mask: np.ndarray, size: tuple[int, int], what: str) -> np.ndarray | None:
        try:
            return fitted(mask, size)
        except ConversionError as error:
            self._warn(f"{what} is left out: it is not of this camera's image: {error}")
            return None


@dataclass(frozen=True)
class _Masked:
    """A result that waits for its depth image."""

    header: Header
    result: FrameResult


class DepthInput:
    """Depth images of the same camera, given back with the mask. Subscribed to only while somebody wants them back."""

    def __init__(self, node: LifecycleNode, config: NodeConfig, outputs: Outputs, warn: Callable[[str], None]):
        self._node, self._outputs, self._warn = node, outputs, warn
        self._bag_mode = config.bag_mode
        self._pairs: Pairing[_Masked, Any] = Pairing(
            self._publish, round(config.depth_tolerance * 1e9), size=lambda message: len(message.data)
        )
        self._subscription: Subscription | None = None
        self._told = False
        self._over = False
        self.topic = node.resolve_topic_name("depth")

    @property
    def _wanted(self) -> bool:
        return any(self._outputs.wanted(name) for name in DEPTH_TOPICS)

    def check(self) -> None:
        """Subscribe while somebody listens, and say what is missing. On the executor's thread; cheap."""
        if self._over:
            return
        if self._wanted and self._subscription is None:
            self._open()
        elif not self._wanted and self._subscription is not None:
            self._unsubscribe()
        if self._subscription is None:
            return
        if not self._node.count_publishers(self.topic):
            self._warn(f"somebody wants a depth image back, but nobody publishes '{self.topic}': remap `depth`")
        elif self._pairs.unpaired >= _FEW and not self._pairs.paired and self._pairs.came and not self._told:
            self._told = True
            self._warn(
                f"no depth image on '{self.topic}' has the stamp of an image: take one that is aligned with the images "
                "and has their stamps, or set depth_tolerance"
            )

    def close(self) -> None:
        self._over = True
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription:
            self._node.destroy_subscription(subscription)

    def in_hand(self, stamp: int) -> None:
        """The image of this stamp is being processed."""
        self._pairs.in_hand(stamp)
        if self._bag_mode:
            wake(self._node)

    def restart(self) -> None:
        self._pairs.restart()

    def add(self, result: FrameResult, header: Header) -> None:
        if self._subscription is not None:
            self._pairs.add_first(result.frame.stamp_ns, _Masked(header, result))

    def _open(self) -> None:
        gate = Gate(lambda: self._pairs.has_room) if self._bag_mode else MutuallyExclusiveCallbackGroup()
        self._subscription = self._node.create_subscription(
            Image,
            self.topic,
            lambda message: self._pairs.add_second(stamp_ns(message.header.stamp), message),
            image_qos(self._bag_mode),
            callback_group=gate,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _publish(self, masked: _Masked, depth: Any) -> None:
        header = masked.header
        if self._outputs.wanted("sync/depth"):
            same = depth.header.stamp == header.stamp
            stamped = Header(stamp=header.stamp, frame_id=depth.header.frame_id)
            self._outputs.send("sync/depth", depth if same else with_header(depth, stamped))
        if not self._outputs.wanted("depth_static"):
            return
        try:
            if depth.header.frame_id != header.frame_id:
                raise ConversionError(
                    f"it has frame_id '{depth.header.frame_id}', the images have '{header.frame_id}': take the depth "
                    "image that the camera's driver aligned with the images"
                )
            static = without_movers(depth, masked.result.mask)
        except ConversionError as error:
            self._warn(f"'{self.topic}' cannot be masked: {error}")
            return
        static.header = Header(stamp=header.stamp, frame_id=depth.header.frame_id)
        self._outputs.send("depth_static", static)


class Companions:
    """Both of them, and the messages that other programs take with a mask. From `open` to `close`."""

    def __init__(self, node: LifecycleNode, config: NodeConfig, outputs: Outputs, warn: Callable[[str], None]):
        self._outputs = outputs
        self._masks = MaskInput(node, config, warn)
        self._depth = DepthInput(node, config, outputs, warn)

    def open(self) -> None:
        """Raises ConfigError, and RuntimeError for a QoS override that does not exist."""
        self._masks.open()

    def close(self) -> None:
        self._masks.close()
        self._depth.close()

    def check(self) -> None:
        """Once a second, on the executor's thread."""
        self._depth.check()

    def restart(self) -> None:
        """A new world."""
        self._depth.restart()

    def before(self, stamp: int, size: tuple[int, int]) -> np.ndarray | None:
        """An image is about to be processed: (H, W) bool of what others exclude in it, None: nothing."""
        self._depth.in_hand(stamp)
        return self._masks.excluded(stamp, size)

    def body(self, size: tuple[int, int]) -> np.ndarray | None:
        """As `MaskInput.body`."""
        return self._masks.body(size)

    def publish(self, result: FrameResult, received: Any, camera_info: CameraInfo | None) -> None:
        """received: the image as it came in."""
        for name, message in stack_messages(result, received, camera_info, self._outputs.wanted):
            self._outputs.send(name, message)
        self._depth.add(result, received.header)


def _body_mask(path: str) -> np.ndarray:
    """(H, W) bool. Raises ConfigError."""
    full = os.path.expanduser(path)
    image = cv2.imread(full, cv2.IMREAD_GRAYSCALE) if os.path.isfile(full) else None
    if image is None:
        problem = "is no image that can be read" if os.path.isfile(full) else "does not exist"
        raise ConfigError(f"body_mask '{path}' {problem}: give a PNG of the images' size, white where the robot is")
    return image > 127


def _either(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second
