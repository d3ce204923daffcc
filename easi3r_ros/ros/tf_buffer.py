"""The buffer of transforms: tf2's own where tf2_ros is installed, else `TransformTree`. The one place that decides."""

from __future__ import annotations

import logging
from contextlib import suppress
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
            cause = error
        except self._tf2.LookupException as error:
            names = [name for name in (target, source) if not self._buffer._frameExists(name)]
            raise NotYet(f"nobody broadcasts a transform of '{names[0]}'" if names else str(error)) from error
        except self._tf2.ConnectivityException as error:
            raise NotYet(f"'{target}' and '{source}' are not connected") from error
        except self._tf2.TransformException as error:
            raise TooOld(str(error)) from error
        latest = self._buffer.get_latest_common_time(target, source).nanoseconds
        newer = stamp_ns > latest
        if tolerance_ns:
            nearest = latest if newer else stamp_ns + tolerance_ns
            if abs(stamp_ns - nearest) <= tolerance_ns:
                with suppress(self._tf2.TransformException):
                    return self._at(target, source, nearest)
        if newer:
            late = (stamp_ns - latest) / SECOND
            raise NotYet(f"the last transforms {target} -> {source} are {late:.3f} s older than the image") from cause
        raise TooOld(str(cause)) from cause

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
