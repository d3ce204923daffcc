"""Broadcasts map -> camera, and refuses where that would give the camera's frame a second parent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

# As tf2_ros does it; without tf2_ros itself, which a ROS 2 from PyPI lacks.
_DYNAMIC_QOS = QoSProfile(depth=100)
_STATIC_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class ParentWatch:
    """Knows which parents others give to frames: every static one, and those of the frames named in `watch`."""

    def __init__(self) -> None:
        self._static: dict[str, str] = {}
        self._dynamic: dict[str, str] = {}
        self._watched: set[str] = set()

    def watch(self, child: str) -> None:
        # Moving frames are kept only where asked for: some systems broadcast ever new ones.
        self._watched.add(child)

    def hear(self, transforms: Iterable[TransformStamped], static: bool) -> None:
        for transform in transforms:
            child, parent = transform.child_frame_id, transform.header.frame_id
            if static:
                self._static[child] = parent
            elif child in self._watched:
                self._dynamic[child] = parent

    def other_parent(self, child: str, parent: str) -> str | None:
        """A parent of `child` other than `parent`, if somebody broadcasts one."""
        heard = (self._static.get(child), self._dynamic.get(child))
        return next((other for other in heard if other not in (None, parent)), None)


class CameraBroadcaster:
    """Sends map -> camera on /tf. warn(text) is called once per camera frame that cannot be given a parent."""

    def __init__(self, node: Node, map_frame: str, warn: Callable[[str], None]):
        self._node = node
        self._map_frame = map_frame
        self._warn = warn
        self._warned: set[str] = set()
        self._parents = ParentWatch()
        self._publisher = node.create_publisher(TFMessage, "/tf", _DYNAMIC_QOS)
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", lambda m: self._parents.hear(m.transforms, False), _DYNAMIC_QOS),
            node.create_subscription(
                TFMessage, "/tf_static", lambda m: self._parents.hear(m.transforms, True), _STATIC_QOS
            ),
        ]

    def send(self, transform: TransformStamped) -> bool:
        """Broadcast map -> camera; False if that is refused."""
        child = transform.child_frame_id
        self._parents.watch(child)
        problem = self._problem(child)
        if problem:
            if child not in self._warned:
                self._warned.add(child)
                self._warn(problem)
            return False
        self._publisher.publish(TFMessage(transforms=[transform]))
        return True

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(self._publisher)

    def _problem(self, child: str) -> str:
        if not child:
            return "no TF: the images have no frame_id; set one in the camera driver, or set tf_mode to none"
        if child == self._map_frame:
            return f"no TF: the images have frame_id '{child}', which is map_frame; change one of them"
        other = self._parents.other_parent(child, self._map_frame)
        if other is None:
            return ""
        return (
            f"no TF {self._map_frame} -> {child}: '{child}' already has the parent '{other}', and a frame has only "
            "one; set tf_mode to none and use ~/pose, or stop the other broadcaster"
        )
