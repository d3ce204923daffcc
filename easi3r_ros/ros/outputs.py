"""The node's publishers: every result goes out on those topics that somebody listens to, and on TF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from easi3r_ros.core.types import FrameResult
from easi3r_ros.messages.message_types import CameraInfo, Header, WindowStatus
from easi3r_ros.messages.objects import OBJECT_TOPICS
from easi3r_ros.messages.results import DEBUG_TOPICS, TOPICS, ResultMessages
from easi3r_ros.messages.stacks import DEPTH_TOPICS, STACK_TOPICS
from easi3r_ros.ros.params import Settings
from easi3r_ros.ros.surroundings import MAP_TOPICS, Surroundings
from easi3r_ros.ros.tf import TfBroadcaster, TfFrames, TfListener
from easi3r_ros.ros.world import needs_tf

# Reliable. A recorder of a bag's results must get every one even if it is slow for a moment.
_DEPTH, _BAG_DEPTH = 10, 200
_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
# Who comes late gets the last one at once.
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """Lifecycle publishers under `~/`, silent while the node is inactive.

    warn(text): for a person. Raises RuntimeError for a QoS override that does not exist.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, warn: Callable[[str], None]):
        self._node = node
        self._publishers: dict[str, Any] = {}
        self._broadcaster: TfBroadcaster | None = None
        self.tf: TfListener | None = None  # where tf_mode, level or scale.source need it
        config, clouds = settings.node, settings.pipeline.clouds
        self.map_frame = config.map_frame
        self._results = ResultMessages(config.map_frame, config.path_length, clouds, config.path_period)
        self.surroundings = Surroundings(config.map_frame, settings.pipeline, self.wanted, self.send, warn)
        try:
            self._open(settings, warn)
        except Exception:  # the next configure must not find half of the publishers
            self.close()
            raise

    def reconfigure(self, settings: Settings) -> None:
        """Apply changed live settings."""
        config = settings.node
        self._results.reconfigure(config.path_length, settings.pipeline.clouds, config.path_period)
        self.surroundings.reconfigure(settings.pipeline)

    def restart(self) -> None:
        """A new world: what was said about the old one does not belong to it."""
        self._results.restart()
        self.surroundings.restart()
        if self._broadcaster:
            self._broadcaster.restart()

    def publish(
        self, result: FrameResult, header: Header, camera_info: CameraInfo | None, body: np.ndarray | None = None
    ) -> None:
        """Everything about one image but the status. header, camera_info: as received with the image.

        body: (H, W) bool, True where the camera sees the robot itself.
        """
        for name, message in self._results.make(result, header, camera_info, self.wanted):
            self.send(name, message)
        if self._broadcaster and result.state.has_pose and not result.withheld:
            self._broadcaster.send(result.world_from_cam, header)
        self.surroundings.publish(result, header, body)

    def send(self, name: str, message: Any) -> None:
        """On a topic under `~/`; from any thread."""
        self._publishers[name].publish(message)

    def publish_status(self, status: WindowStatus) -> None:
        self._publishers["status"].publish(status)

    def close(self) -> None:
        if self._broadcaster:
            self._broadcaster.close()
        if self.tf:
            self.tf.close()
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _open(self, settings: Settings, warn: Callable[[str], None]) -> None:
        depth = _BAG_DEPTH if settings.node.bag_mode else _DEPTH
        topics = TOPICS | DEBUG_TOPICS | STACK_TOPICS | DEPTH_TOPICS | OBJECT_TOPICS | MAP_TOPICS
        for name, type_ in topics.items():
            self._publishers[name] = self._node.create_lifecycle_publisher(
                type_,
                f"~/{name}",
                _LATCHED if name in MAP_TOPICS else QoSProfile(depth=depth),
                qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE),
            )
        config = settings.node
        if needs_tf(settings):
            self.tf = TfListener(self._node)
        if config.tf_mode != "none":
            frames = TfFrames(config.map_frame, config.odom_frame, config.base_frame)
            self._broadcaster = TfBroadcaster(self._node, self.tf, config.tf_mode, frames, config.tf_tolerance, warn)

    def others_in_map(self) -> list[str]:
        """Frames that somebody else moves in this node's map; none while it broadcasts no TF itself."""
        if self._broadcaster is None or self.tf is None:
            return []
        with self.tf.lock:
            return self.tf.parents.children(self.map_frame)

    def wanted(self, name: str) -> bool:
        """Whether anybody listens."""
        return self._publishers[name].get_subscription_count() > 0
