"""The demo's side of DDS: publishes a clip as a camera would, and collects what the node makes of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from easi3r_ros.msg import WindowStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from easi3r_ros.core.types import PointCloud
from easi3r_ros.messages.conversions import CLOUD_DTYPE, camera_info_message, image_message, stamp_ns, time_message
from easi3r_ros.messages.images import array_from_image

FRAME_ID = "demo_camera_optical_frame"
_OUTPUTS = {
    "mask": Image,
    "probability": Image,
    "depth": Image,
    "pose": PoseWithCovarianceStamped,
    "points/static": PointCloud2,
    "points/dynamic": PointCloud2,
    "status": WindowStatus,
}
_SETTLING = 0.5  # seconds
_ASK_AGAIN = 1.0  # seconds
_QUEUE = 100  # nothing that the node publishes may be lost here, even if this process is slow for a moment


@dataclass(frozen=True)
class Published:
    """The messages of one frame."""

    stamp_ns: int
    image: Image
    camera_info: CameraInfo


@dataclass(frozen=True)
class NodeResult:
    """What the node said about one image."""

    stamp_ns: int
    latency_ms: float  # wall time from the publication of the image to the reception of its mask
    mask: np.ndarray  # (H, W) bool
    probability: np.ndarray  # (H, W) float32
    depth: np.ndarray  # (H, W) float32, world units, NaN: not known
    world_from_cam: np.ndarray | None  # (4, 4) float64; None: no pose yet, or lost
    static: PointCloud  # camera optical frame, world units
    dynamic: PointCloud
    status: WindowStatus


def camera_messages(images: np.ndarray, K: np.ndarray, stamps_ns: Sequence[int]) -> list[Published]:
    """A clip (T, H, W, 3) uint8 RGB as a camera driver would send it."""
    size = (images.shape[2], images.shape[1])
    result = []
    for image, stamp in zip(images, stamps_ns, strict=True):
        header = Header(stamp=time_message(stamp), frame_id=FRAME_ID)
        result.append(
            Published(stamp, image_message(image, "rgb8", header), camera_info_message(header, size, K, None))
        )
    return result


@contextmanager
def connected(domain_id: int, node: str = "easi3r") -> Iterator[DemoClient]:
    """A client on its own DDS domain of this machine, spinning in the background."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain_id)  # not the command line of `easi3r`
    client = DemoClient(node, context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(client)
    thread = threading.Thread(target=_spin, args=(executor,), name="demo-client")
    thread.start()
    try:
        yield client
    finally:
        executor.shutdown()
        thread.join()
        client.destroy_node()
        rclpy.shutdown(context=context)


def _spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        return


class DemoClient(Node):
    """Publishes `image` and `camera_info`, subscribes to the outputs of the node called `node`."""

    def __init__(self, node: str, context: Context):
        super().__init__("easi3r_demo", context=context)
        # A node in bag mode takes its time: what waits for it must be kept. A live one takes what it can get.
        everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
        self._image = self.create_publisher(Image, "image", everything)
        self._info = self.create_publisher(CameraInfo, "camera_info", 10)
        self._sent: dict[int, float] = {}  # stamp -> perf_counter seconds
        self._received: dict[str, dict[int, tuple[float, Any]]] = {name: {} for name in _OUTPUTS}
        self._topics = [f"{node}/{name}" for name in _OUTPUTS]
        self._connected_since: float | None = None
        self._state_client = self.create_client(GetState, f"{node}/get_state")
        self._state = ""
        self._asked = 0.0
        for name, type_ in _OUTPUTS.items():
            self.create_subscription(type_, f"{node}/{name}", self._keeper(name), _QUEUE)

    def is_connected(self) -> bool:
        """The node has been listening to the camera, and its outputs have been there, for some time.

        Discovery has two sides: that we know the node does not mean that it knows us already.
        """
        listens = self._image.get_subscription_count() > 0 and self._info.get_subscription_count() > 0
        if not (listens and all(self.count_publishers(topic) > 0 for topic in self._topics)):
            self._connected_since = None
        elif self._connected_since is None:
            self._connected_since = time.monotonic()
        return self._connected_since is not None and time.monotonic() - self._connected_since > _SETTLING

    def lifecycle_state(self) -> str:
        """What the node last said about itself ("active", ...); empty before its first answer. Never blocks."""
        # Asked again and again: an answer is lost if the node gave it before it had discovered this client.
        if self._state_client.service_is_ready() and time.monotonic() - self._asked > _ASK_AGAIN:
            self._asked = time.monotonic()
            self._state_client.call_async(GetState.Request()).add_done_callback(self._keep_state)
        return self._state

    def _keep_state(self, future: Future) -> None:
        self._state = future.result().current_state.label

    def play(self, clip: Sequence[Published], rate: float, check: Callable[[], None]) -> None:
        """Publish in real time at `rate` Hz. check(): called before every frame; what it raises ends the play."""
        start = time.perf_counter()
        for number, message in enumerate(clip):
            check()
            time.sleep(max(0.0, start + number / rate - time.perf_counter()))
            self._info.publish(message.camera_info)
            self._sent[message.stamp_ns] = time.perf_counter()
            self._image.publish(message.image)

    def has_status(self, stamp: int) -> bool:
        """Whether everything about the image of this stamp was published: the status comes last."""
        return stamp in self._received["status"]

    @property
    def results_so_far(self) -> int:
        return len(self._received["mask"])

    def frames_per_second(self) -> float:
        """Rate at which masks arrived; 0 for less than two."""
        when = [time_ for time_, _ in self._received["mask"].values()]
        return (len(when) - 1) / (max(when) - min(when)) if len(when) > 1 else 0.0

    def results(self) -> list[NodeResult]:
        """What arrived completely, in the order of the stamps."""
        needed = [name for name in _OUTPUTS if name != "pose"]  # a lost camera has none
        stamps = set.intersection(*(set(self._received[name]) for name in needed))
        return [self._result(stamp) for stamp in sorted(stamps)]

    def _keeper(self, name: str) -> Callable[[Any], None]:
        kept = self._received[name]

        def keep(message: Any) -> None:
            kept[stamp_ns(message.header.stamp)] = (time.perf_counter(), message)

        return keep

    def _result(self, stamp: int) -> NodeResult:
        messages = {name: kept[stamp][1] for name, kept in self._received.items() if stamp in kept}
        status = messages["status"]
        known = "pose" in messages and status.tracking_state != WindowStatus.STATE_INITIALISING
        return NodeResult(
            stamp_ns=stamp,
            latency_ms=(self._received["mask"][stamp][0] - self._sent[stamp]) * 1e3,
            mask=array_from_image(messages["mask"]) > 0,
            probability=array_from_image(messages["probability"]),
            depth=array_from_image(messages["depth"]),
            world_from_cam=_matrix(messages["pose"]) if known else None,
            static=_cloud(messages["points/static"]),
            dynamic=_cloud(messages["points/dynamic"]),
            status=status,
        )


def _matrix(message: PoseWithCovarianceStamped) -> np.ndarray:
    position, q = message.pose.pose.position, message.pose.pose.orientation
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    matrix[:3, 3] = position.x, position.y, position.z
    return matrix


def _cloud(message: PointCloud2) -> PointCloud:
    points = np.frombuffer(message.data, CLOUD_DTYPE)
    packed = points["rgb"].view("<u4") if points["rgb"].flags.c_contiguous else points["rgb"].copy().view("<u4")
    rgb = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)
    return PointCloud(np.stack([points["x"], points["y"], points["z"]], axis=-1), rgb, points["confidence"])
