"""What is said about each result, and on which topic; for a publisher or a bag writer alike. Knows no node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from easi3r_ros.core.clouds import split_cloud
from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import FrameResult
from easi3r_ros.messages import conversions as messages
from easi3r_ros.messages.conversions import StampedPose, twist_between
from easi3r_ros.messages.message_types import (
    CameraInfo,
    Header,
    Image,
    Odometry,
    Path,
    PointCloud2,
    PoseStamped,
    PoseWithCovarianceStamped,
    TransformStamped,
    WindowStatus,
)
from easi3r_ros.messages.ros_libraries import point_cloud

TOPICS = {  # name under ~/ -> message class
    "mask": Image,
    "mask/camera_info": CameraInfo,
    "probability": Image,
    "depth": Image,
    "depth/camera_info": CameraInfo,
    "points/static": PointCloud2,
    "points/dynamic": PointCloud2,
    "pose": PoseWithCovarianceStamped,
    "odometry": Odometry,
    "path": Path,
    "status": WindowStatus,
}
CUES = ("attention", "geometry", "fused")  # which of them there are depends on backbone and configuration
DEBUG_TOPICS = {f"evidence/{cue}": Image for cue in CUES}  # at the backbone's size; not for recordings


class ResultMessages:
    """Makes the messages about results, one result after the other; keeps the path and the last pose.

    map_frame: the frame of poses. path_length: poses kept. path_period: seconds between two paths, in the time of the
    stamps, because each repeats all of its poses.
    """

    def __init__(self, map_frame: str, path_length: int, clouds: CloudConfig, path_period: float = 0.0):
        self._map_frame = map_frame
        self._path: deque[PoseStamped] = deque()
        self._path_ns: int | None = None  # stamp of the last one made
        self._last: StampedPose | None = None
        self._transform_ns: int | None = None  # stamp of the last one
        self._world = 0
        self.reconfigure(path_length, clouds, path_period)

    def reconfigure(self, path_length: int, clouds: CloudConfig, path_period: float) -> None:
        """Apply changed live settings."""
        self._clouds = clouds
        self._path_period_ns = path_period * 1e9
        self._path = deque(self._path, maxlen=path_length)

    def restart(self) -> None:
        """A new world: what was said about the old one does not belong to it."""
        self._path.clear()
        self._path_ns = None
        self._last = None
        self._transform_ns = None

    def transform(self, result: FrameResult, header: Header) -> TransformStamped | None:
        """map -> camera; None without a pose that may be told, and where one was given for this time: tf2 knows one."""
        stamp_ns = result.frame.stamp_ns
        known = result.state.has_pose and not result.withheld
        if not known or (self._transform_ns is not None and stamp_ns <= self._transform_ns):
            return None
        self._transform_ns = stamp_ns
        return messages.transform_message(result.world_from_cam, self._in_map(header), header.frame_id)

    def make(
        self, result: FrameResult, header: Header, camera_info: CameraInfo | None, wanted: Callable[[str], bool]
    ) -> Iterator[tuple[str, Any]]:
        """(name in TOPICS or DEBUG_TOPICS, message) of what is `wanted`, but the status; for every result, in order.

        header, camera_info: as received with the image. Nothing is said about the pose before tracking starts and
        while it is lost: a held pose with a new stamp would tell a robot that it stands still. Nor about any length
        while metres were asked for and are not known: nothing in a cloud says that it is not in metres.
        """
        yield from self._images(result, header, camera_info, wanted)
        if not result.withheld:
            yield from self._points(result, header, wanted)
        if result.state.has_pose and not result.withheld:
            yield from self._poses(result, header, wanted)
        else:
            self._last = None  # the mean over a time without poses would be no velocity of now

    def _in_map(self, header: Header) -> Header:
        return Header(stamp=header.stamp, frame_id=self._map_frame)

    def _images(
        self, result: FrameResult, header: Header, camera_info: CameraInfo | None, wanted: Callable[[str], bool]
    ) -> Iterator[tuple[str, Any]]:
        seen = result.as_received
        if wanted("mask"):
            yield "mask", messages.mask_message(seen.mask, header)
        if wanted("probability"):
            yield "probability", messages.image_message(seen.probability, "32FC1", header)
        if wanted("depth") and not result.withheld:
            yield "depth", messages.image_message(seen.depth, "32FC1", header)
        for cue in CUES:
            if wanted(f"evidence/{cue}") and cue in result.evidence:
                yield f"evidence/{cue}", messages.image_message(result.evidence[cue], "32FC1", header)
        height, width = result.frame.image.shape[:2]  # not the mask's: reading that computes it
        for name in ("mask/camera_info", "depth/camera_info"):
            if wanted(name):
                yield name, messages.camera_info_message(header, (width, height), seen.K, camera_info)

    def _points(
        self, result: FrameResult, header: Header, wanted: Callable[[str], bool]
    ) -> Iterator[tuple[str, PointCloud2]]:
        names = [name for name in ("points/static", "points/dynamic") if wanted(name)]
        if not names:
            return
        static, dynamic = split_cloud(result, self._clouds)
        for name in names:
            yield name, point_cloud(static if name == "points/static" else dynamic, header)

    def _poses(self, result: FrameResult, header: Header, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
        if result.world != self._world:
            self.restart()
            self._world = result.world
        in_map = self._in_map(header)
        now = StampedPose(result.frame.stamp_ns, result.world_from_cam, result.covariance)
        last, self._last = self._last, now
        self._path.append(PoseStamped(header=in_map, pose=messages.pose_of(now.world_from_cam)))
        if wanted("pose"):
            yield "pose", messages.pose_message(now.world_from_cam, now.covariance, in_map)
        if wanted("odometry"):
            pose = messages.pose_message(now.world_from_cam, now.covariance, in_map)
            yield "odometry", messages.odometry_message(pose, header.frame_id, *twist_between(last, now))
        if self._path_is_due(now.stamp_ns) and wanted("path"):
            self._path_ns = now.stamp_ns
            yield "path", Path(header=in_map, poses=list(self._path))

    def _path_is_due(self, stamp_ns: int) -> bool:
        return self._path_ns is None or stamp_ns - self._path_ns >= self._path_period_ns
