"""Arrays out: results of the pipeline as messages.

For clouds ask ros_libraries.point_cloud, which takes sensor_msgs_py where it is installed.
"""

from __future__ import annotations

import array
import copy
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ros.core.alignment.placement import unknown_covariance
from easi3r_ros.core.types import PointCloud
from easi3r_ros.messages.message_types import (
    CameraInfo,
    Header,
    Image,
    Odometry,
    Point,
    PointCloud2,
    PointField,
    Pose,
    PoseWithCovarianceStamped,
    Quaternion,
    Time,
    TransformStamped,
    Vector3,
)

# What nav_msgs/Odometry carries where nothing is known: a zero that no filter will believe.
UNKNOWN = (np.zeros(6), unknown_covariance())


@dataclass(frozen=True)
class StampedPose:
    """A pose that was measured."""

    stamp_ns: int
    world_from_cam: np.ndarray  # (4, 4) float64
    covariance: np.ndarray  # (6, 6) float64 of (position, rotation), world axes


def twist_between(last: StampedPose | None, now: StampedPose) -> tuple[np.ndarray, np.ndarray]:
    """((6,) linear and angular velocity, (6, 6) covariance), both in the camera's axes at `now`, per second.

    The mean over the time between the poses, whose errors are taken as independent; UNKNOWN without two times.
    """
    if last is None or now.stamp_ns <= last.stamp_ns:
        return UNKNOWN
    seconds = (now.stamp_ns - last.stamp_ns) / 1e9
    cam_from_world = now.world_from_cam[:3, :3].T
    linear = cam_from_world @ (now.world_from_cam[:3, 3] - last.world_from_cam[:3, 3])
    angular = Rotation.from_matrix(last.world_from_cam[:3, :3].T @ now.world_from_cam[:3, :3]).as_rotvec()
    axes = np.kron(np.eye(2), cam_from_world)  # (6, 6)
    covariance = axes @ (last.covariance + now.covariance) @ axes.T / seconds**2
    return np.concatenate([linear, angular]) / seconds, covariance


_IMAGE_DTYPES = {"mono8": "u1", "rgb8": "u1", "32FC1": "<f4", "32SC1": "<i4"}
CLOUD_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4"), ("confidence", "<f4")])


def image_message(image: np.ndarray, encoding: str, header: Header) -> Image:
    """(H, W[, 3]) array as sensor_msgs/Image: mono8, rgb8, 32FC1 or 32SC1, little endian, no padding."""
    if image.ndim != (3 if encoding == "rgb8" else 2):
        raise ValueError(f"an image of shape {image.shape} cannot be {encoding}")
    pixels = np.ascontiguousarray(image, _IMAGE_DTYPES[encoding])
    height, width = pixels.shape[:2]
    message = Image(
        header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=pixels.nbytes // height
    )
    fill_data(message, pixels)
    return message


def mask_message(mask: np.ndarray, header: Header) -> Image:
    """(H, W) bool as mono8: 0 static, 255 dynamic."""
    return image_message(mask.astype(np.uint8) * 255, "mono8", header)


def packed_points(cloud: PointCloud) -> np.ndarray:
    """(N,) of CLOUD_DTYPE; rgb is 0x00RRGGBB in a float's bits, as PCL has it."""
    points = np.empty(len(cloud.xyz), CLOUD_DTYPE)
    points["x"], points["y"], points["z"] = cloud.xyz.T
    colours = cloud.rgb[:, 0].astype("<u4")
    for channel in (1, 2):
        colours <<= 8
        colours |= cloud.rgb[:, channel]
    points["rgb"] = colours.view("<f4")
    points["confidence"] = cloud.confidence
    return points


def point_fields() -> list[PointField]:
    """The fields of CLOUD_DTYPE."""
    return [
        PointField(name=name, offset=CLOUD_DTYPE.fields[name][1], datatype=PointField.FLOAT32, count=1)
        for name in CLOUD_DTYPE.names
    ]


def is_dense(cloud: PointCloud) -> bool:
    return bool(np.isfinite(cloud.xyz).all())


def cloud_message(cloud: PointCloud, header: Header) -> PointCloud2:
    """Unordered cloud with float32 fields x, y, z, rgb and confidence."""
    points = packed_points(cloud)
    message = PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=point_fields(),
        is_bigendian=False,
        point_step=CLOUD_DTYPE.itemsize,
        row_step=points.nbytes,
        is_dense=is_dense(cloud),
    )
    fill_data(message, points)
    return message


def camera_info_message(
    header: Header, size: tuple[int, int], K: np.ndarray, received: CameraInfo | None
) -> CameraInfo:
    """CameraInfo of an output that has the camera's size (W, H).

    The received one with the image's header, or, where there is none or it is not calibrated, a pinhole camera with K.
    """
    if received is not None and received.k[0] > 0:
        info = copy.copy(received)
        info.header = header
        return info
    return CameraInfo(
        header=header,
        width=size[0],
        height=size[1],
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(),
    )


def pose_of(world_from_cam: np.ndarray) -> Pose:
    """(4, 4) SE(3) as geometry_msgs/Pose, quaternion normalised."""
    position, quaternion = _decomposed(world_from_cam)
    return Pose(position=Point(**position), orientation=quaternion)


def pose_message(world_from_cam: np.ndarray, covariance: np.ndarray, header: Header) -> PoseWithCovarianceStamped:
    message = PoseWithCovarianceStamped(header=header)
    message.pose.pose = pose_of(world_from_cam)
    message.pose.covariance = covariance.ravel()
    return message


def transform_message(parent_from_child: np.ndarray, header: Header, child_frame_id: str) -> TransformStamped:
    message = TransformStamped(header=header, child_frame_id=child_frame_id)
    translation, message.transform.rotation = _decomposed(parent_from_child)
    message.transform.translation = Vector3(**translation)
    return message


def odometry_message(
    pose: PoseWithCovarianceStamped, child_frame_id: str, twist: np.ndarray, twist_covariance: np.ndarray
) -> Odometry:
    """nav_msgs/Odometry: pose in the header's frame; twist (6,) linear, angular and its (6, 6) in the child's frame."""
    message = Odometry(header=pose.header, child_frame_id=child_frame_id, pose=pose.pose)
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = (float(value) for value in twist)
    message.twist.covariance = twist_covariance.ravel()
    return message


def time_message(stamp_ns: int) -> Time:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=seconds, nanosec=nanoseconds)


def stamp_ns(time: Time) -> int:
    return time.sec * 1_000_000_000 + time.nanosec


def _decomposed(transform: np.ndarray) -> tuple[dict[str, float], Quaternion]:
    x, y, z, w = (float(value) for value in Rotation.from_matrix(transform[:3, :3]).as_quat())
    return dict(zip("xyz", (float(value) for value in transform[:3, 3]), strict=True)), Quaternion(x=x, y=y, z=z, w=w)


def fill_data(message: Image | PointCloud2, values: np.ndarray) -> None:
    """Put contiguous values into `data`, which is still empty."""
    if isinstance(message.data, array.array):
        # In place: rclpy's constructor and setter would copy what they are given, once or twice.
        message.data.frombytes(values.reshape(-1).view(np.uint8))
    else:
        message.data = values.tobytes()
