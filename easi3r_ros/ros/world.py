"""What the frame `map` is made from beside images: subscriptions for its level and its metres, and who uses them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, Imu

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import ConfigError
from easi3r_ros.core.types import FrameResult
from easi3r_ros.mapping.level import Accelerometer, Upright
from easi3r_ros.mapping.placing import FromDepth, FromOdometry, Placing, ScaleSource, UprightSource, resolved_source
from easi3r_ros.mapping.tf_tree import SECOND, NotYet, TransformError, TransformTree
from easi3r_ros.messages.conversions import stamp_ns
from easi3r_ros.messages.images import ConversionError, array_from_image
from easi3r_ros.ros.params import Settings
from easi3r_ros.ros.pulled import Pulled
from easi3r_ros.ros.tf import TfListener

UP_PATIENCE = 3.0  # seconds, from the first image on, for an IMU or TF that say where up is
_DEPTH_KEPT = 20
_DEPTH_APART = 20_000_000  # ns between an image and the depth image that belongs to it
_METRES = {"16UC1": 1e-3, "mono16": 1e-3, "32FC1": 1.0}


def _source(settings: Settings, backbone: Backbone) -> str:
    metric = getattr(backbone, "metric", False)
    return resolved_source(settings.pipeline.scale, metric, settings.node.tf_mode)


def needs_tf(settings: Settings) -> bool:
    """Whether /tf has to be listened to."""
    node, pipeline = settings.node, settings.pipeline
    return node.tf_mode != "none" or pipeline.level in ("imu", "tf") or pipeline.scale.source == "odometry"


def check_world(settings: Settings, backbone: Backbone) -> None:
    """Raises ConfigError for settings of frames and scale that cannot work, together or with this backbone."""
    node = settings.node
    names = {"map_frame": node.map_frame, "odom_frame": node.odom_frame, "base_frame": node.base_frame}
    for parameter, name in names.items():
        if not name or name.startswith("/"):
            raise ConfigError(f"'{parameter}' is '{name}': a frame needs a name, without a leading slash (tf2)")
    if len(set(names.values())) < len(names):
        raise ConfigError(f"map_frame, odom_frame and base_frame must differ, got {', '.join(names.values())}")
    _source(settings, backbone)


class World:
    """Subscriptions to `imu`, `odom` and `depth` where settings need them, and the `Placing` that they feed.

    Images are placed on the worker's thread; nothing here wakes the executor.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Settings,
        backbone: Backbone,
        tf: TfListener | None,
        warn: Callable[[str], None],
    ):
        """tf: where `needs_tf` says so. Raises ConfigError, and RuntimeError for a QoS override that does not exist."""
        self._tf, self._node_config = tf, settings.node
        self._tolerance_ns = int(settings.node.tf_tolerance * SECOND)
        self._open: list[Any] = []
        level, scale = settings.pipeline.level, settings.pipeline.scale
        source = _source(settings, backbone)
        if source == "none" and settings.node.tf_mode in ("map_to_odom", "map_to_base"):
            warn(
                f"tf_mode {settings.node.tf_mode} puts lengths of one camera beside the robot's metres, and "
                f"scale.source is {source}: the robot's place in {settings.node.map_frame} is off by the unknown unit. "
                "Set scale.source to odometry, depth or camera_height"
            )
        try:
            upright = self._make_upright(node, level)
            measured_by = self._make_source(node, source, scale.odometry == "topic", warn)
            self.placing = Placing(level, source, scale, measured_by, upright, warn)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        for item in self._open:
            item.close()
        self._open = []

    def _make_upright(self, node: LifecycleNode, level: str) -> UprightSource | None:
        if level == "imu":
            imu = UprightFromImu(node, self._tf)
            self._open.append(imu)
            return imu
        if level == "tf":
            base = UprightFromBase(self._tf, self._node_config.base_frame, self._tolerance_ns)
            self._open.append(base)
            return base
        return None

    def _make_source(
        self, node: LifecycleNode, source: str, by_topic: bool, warn: Callable[[str], None]
    ) -> ScaleSource | None:
        if source == "depth":
            depth = DepthImages(node, warn)
            self._open.append(depth)
            return FromDepth(depth.at)
        if source != "odometry":
            return None
        lookup = self._from_tf
        if by_topic:
            odometry = OdometryTopic(node, self._tf, self._tolerance_ns)
            self._open.append(odometry)
            lookup = odometry.odom_from_cam
        return FromOdometry(lookup, time.monotonic)

    def _from_tf(self, result: FrameResult, last: bool) -> np.ndarray:
        """(4, 4) odom_from_cam at the image's stamp. Raises TransformError."""
        self._tf.hear()
        frame = result.frame
        tolerance = self._tolerance_ns if last else 0
        return self._tf.lookup(self._node_config.odom_frame, frame.frame_id, frame.stamp_ns, tolerance)


class _Patient(UprightSource, ABC):
    """Looks again for a while, from a world's first image on: on the worker's thread, which may wait."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._ended = False

    def ask(self, result: FrameResult) -> Upright | str:
        if self._until is None:
            self._until = time.monotonic() + UP_PATIENCE
        while isinstance(answer := self._look(result), str) and time.monotonic() < self._until and not self._ended:
            time.sleep(0.02)
        return answer

    def restart(self) -> None:
        self._until = None

    @abstractmethod
    def _look(self, result: FrameResult) -> Upright | str:
        """As `ask`, at once."""

    def close(self) -> None:
        self._ended = True


class UprightFromBase(_Patient):
    """base_frame is upright."""

    def __init__(self, tf: TfListener, base: str, tolerance_ns: int):
        super().__init__()
        self._tf, self._base, self._tolerance_ns = tf, base, tolerance_ns

    def _look(self, result: FrameResult) -> Upright | str:
        self._tf.hear()
        frame = result.frame
        try:
            cam_from_base = self._tf.lookup(frame.frame_id, self._base, frame.stamp_ns, self._tolerance_ns)
        except TransformError as error:
            return str(error)
        base_from_cam = np.linalg.inv(cam_from_base)
        return Upright(up=cam_from_base[:3, 2], forward=cam_from_base[:3, 0], position=base_from_cam[:3, 3])


class UprightFromImu(_Patient):
    """Gravity, as an accelerometer feels it."""

    def __init__(self, node: LifecycleNode, tf: TfListener):
        super().__init__()
        self._tf, self._accelerometer = tf, Accelerometer()
        self._frame, self._unusable = "", ""
        self._pulled = Pulled(node, Imu, "imu", QoSProfile(depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT))

    def close(self) -> None:
        super().close()
        self._pulled.close()

    def _look(self, result: FrameResult) -> Upright | str:
        for message in self._pulled.take():
            self._take(message)
        frame = result.frame
        found = self._accelerometer.up(frame.stamp_ns)
        if found is None:
            return self._unusable or (
                f"no accelerations on '{self._pulled.topic}' with stamps near the image's ({self._pulled.publishers} "
                "publishers)"
            )
        self._tf.hear()
        try:
            cam_from_imu = self._tf.lookup(frame.frame_id, self._frame, frame.stamp_ns, SECOND)
        except TransformError as error:
            return f"where the IMU is is not known: {error}"
        acceleration, still = found
        return Upright(up=cam_from_imu[:3, :3] @ acceleration, still=still)

    def _take(self, message: Imu) -> None:
        if message.linear_acceleration_covariance[0] == -1:  # REP-145: there is none
            self._unusable = f"the messages on '{self._pulled.topic}' have no linear_acceleration"
            return
        a, w = message.linear_acceleration, message.angular_velocity
        turning = np.zeros(3) if message.angular_velocity_covariance[0] == -1 else np.array([w.x, w.y, w.z])
        self._frame = message.header.frame_id.lstrip("/")
        self._accelerometer.add(stamp_ns(message.header.stamp), np.array([a.x, a.y, a.z]), turning)


class OdometryTopic:
    """nav_msgs/Odometry on `odom`: its child frame's poses, and TF from there to the camera."""

    def __init__(self, node: LifecycleNode, tf: TfListener, tolerance_ns: int):
        self._tf, self._tolerance_ns = tf, tolerance_ns
        self._tree, self._frames = TransformTree(), ("", "")
        self._pulled = Pulled(node, Odometry, "odom", QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT))

    def close(self) -> None:
        self._pulled.close()

    def odom_from_cam(self, result: FrameResult, last: bool) -> np.ndarray:
        """(4, 4) at the result's stamp. Raises TransformError."""
        for message in self._pulled.take():
            p, q = message.pose.pose.position, message.pose.pose.orientation
            self._frames = message.header.frame_id or "odom", message.child_frame_id or "base"
            stamp = stamp_ns(message.header.stamp)
            self._tree.put(*self._frames, stamp, (p.x, p.y, p.z), (q.x, q.y, q.z, q.w), static=False)
        odom, base = self._frames
        if not odom:
            raise NotYet(f"no messages on '{self._pulled.topic}' ({self._pulled.publishers} publishers)")
        frame, tolerance = result.frame, self._tolerance_ns if last else 0
        self._tf.hear()
        base_from_cam = self._tf.lookup(base.lstrip("/"), frame.frame_id, frame.stamp_ns, tolerance)
        return self._tree.lookup(odom, base, frame.stamp_ns, tolerance) @ base_from_cam


class DepthImages:
    """Depth images on `depth`, aligned to the camera's: the last ones, converted only when they are asked for."""

    def __init__(self, node: LifecycleNode, warn: Callable[[str], None]):
        self._warn = warn
        self._kept: deque[Image] = deque(maxlen=_DEPTH_KEPT)
        qos = QoSProfile(depth=_DEPTH_KEPT, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._pulled = Pulled(node, Image, "depth", qos)

    def close(self) -> None:
        self._pulled.close()

    def at(self, result: FrameResult) -> np.ndarray | None:
        """(h, w) metres of the image that belongs to a result; NaN where it is not known. None: there is none."""
        self._kept.extend(self._pulled.take())
        frame = result.frame
        apart, message = min(
            ((abs(stamp_ns(m.header.stamp) - frame.stamp_ns), m) for m in self._kept),
            key=lambda item: item[0],
            default=(_DEPTH_APART + 1, None),
        )
        if apart > _DEPTH_APART:
            return None
        problem = self._problem(message, frame.frame_id, frame.image.shape)
        if problem:
            self._warn(f"depth image on '{self._pulled.topic}' is of no use for the scale: {problem}")
            return None
        try:
            values = array_from_image(message)
        except ConversionError as error:
            self._warn(f"depth image on '{self._pulled.topic}' is left out: {error}")
            return None
        return values.astype(np.float32) * np.float32(_METRES[message.encoding])

    def _problem(self, message: Image, frame_id: str, shape: tuple[int, ...]) -> str:
        if message.encoding not in _METRES:
            return f"encoding '{message.encoding}'; 16UC1 (millimetres) or 32FC1 (metres) is needed"
        if message.header.frame_id != frame_id:
            return (
                f"it is that of frame '{message.header.frame_id}', the camera's is '{frame_id}'. Connect the depth "
                "image that is aligned to the camera (RealSense: align_depth.enable:=true)"
            )
        if abs(message.width / message.height - shape[1] / shape[0]) > 0.02:
            return f"its shape is {message.width} x {message.height}, the camera's {shape[1]} x {shape[0]}"
        return ""
