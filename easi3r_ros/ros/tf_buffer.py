"""The buffer of transforms: tf2's own where tf2_ros is installed, else `TransformTree`. The one place that decides."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.time import Time
from scipy.spatial.transform import Rotation

from easi3r_ros.mapping.tf_tree import KEPT_SECONDS, SECOND, NotYet, TooOld, TransformTree

log = logging.getLogger(__name__)


class OwnBuffer:
    """`TransformTree`, fed with messages."""

    def __init__(self) -> None:
        self._tree = TransformTree()

    def put(self, message: TransformStamped, static: bool) -> None:
        t, q, stamp = message.transform.translation, message.transform.rotation, message.header.stamp
        self._tree.put(
            message.header.frame_id.lstrip("/"),
            message.child_frame_id.lstrip("/"),
            stamp.sec * SECOND + stamp.nanosec,
            (t.x, t.y, t.z),
            (q.x, q.y, q.z, q.w),
            static,
        )

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int = 0) -> np.ndarray:
        return self._tree.lookup(target, source, stamp_ns, tolerance_ns)


class Tf2Buffer:
    """tf2's buffer, with the answers and the errors of `TransformTree`."""

    def __init__(self, tf2_ros: Any):
        self._tf2 = tf2_ros
        self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=int(KEPT_SECONDS)))
        self._newest: dict[str, int] = {}

    def put(self, message: TransformStamped, static: bool) -> None:
        child = message.child_frame_id
        if static:
            self._buffer.set_transform_static(message, "easi3r")
            return
        stamp = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
        if stamp < self._newest.get(child, stamp) - int(KEPT_SECONDS * SECOND):  # time began again
            self._buffer.clear()
            self._newest.clear()
        self._newest[child] = max(stamp, self._newest.get(child, stamp))
        self._buffer.set_transform(message, "easi3r")

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int = 0) -> np.ndarray:
        """As `TransformTree.lookup`."""
        try:
            return self._at(target, source, stamp_ns)
        except self._tf2.ExtrapolationException as error:
            newer, text = self._newer(target, source, stamp_ns), str(error)
        except (self._tf2.LookupException, self._tf2.ConnectivityException) as error:
            raise NotYet(str(error)) from error
        except self._tf2.TransformException as error:
            raise TooOld(str(error)) from error
        if tolerance_ns:
            latest = self._buffer.get_latest_common_time(target, source).nanoseconds
            nearest = min(latest, stamp_ns + tolerance_ns) if not newer else latest
            if abs(stamp_ns - nearest) <= tolerance_ns:
                try:
                    return self._at(target, source, nearest)
                except self._tf2.TransformException:
                    pass
        raise (NotYet if newer else TooOld)(text)

    def _newer(self, target: str, source: str, stamp_ns: int) -> bool:
        """Whether the time is after all that is known."""
        return stamp_ns > self._buffer.get_latest_common_time(target, source).nanoseconds

    def _at(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        found = self._buffer.lookup_transform_core(target, source, Time(nanoseconds=stamp_ns)).transform
        t, q, out = found.translation, found.rotation, np.eye(4)
        out[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
        out[:3, 3] = t.x, t.y, t.z
        return out


def make_buffer() -> OwnBuffer | Tf2Buffer:
    """tf2's where it is installed and its libraries load."""
    try:
        import tf2_ros

        return Tf2Buffer(tf2_ros)
    except ImportError:
        return OwnBuffer()
    except Exception as error:  # half-installed
        log.warning("tf2_ros cannot be used (%s: %s): this package's own buffer stands in", type(error).__name__, error)
        return OwnBuffer()
