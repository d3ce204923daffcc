"""Velocity of the camera from its last two poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

# What nav_msgs/Odometry carries where nothing is known: a zero that no filter will believe.
UNKNOWN = (np.zeros(6), np.eye(6) * 1e6)


@dataclass(frozen=True)
class StampedPose:
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
