"""Whether the next image continues the world of those before it: stamps, size, frame_id and calibration of a stream.

One answer for the node and for recordings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from easi3r_ros.core.types import Frame

log = logging.getLogger(__name__)

MANY_LATE = 30  # images in a row: then time has started again, though by less than the limit
SAME_K = 0.02  # relative: breathing of an autofocus, and what a calibration is worth
ZOOM = 4.0  # factor of the focal length that one lens may have
SHIFT = 0.05  # of the image's width: how far a zoom may move the principal point


class LateImage(ValueError):
    """An image is older than the one before it: it is left out. The message says by how much."""


@dataclass(frozen=True)
class StreamHead:
    """What the next image must agree with to continue the same world."""

    stamp_ns: int
    frame_id: str
    size: tuple[int, int]  # (W, H)
    K: np.ndarray | None

    @classmethod
    def of(cls, frame: Frame) -> StreamHead:
        return cls(frame.stamp_ns, frame.frame_id, (frame.image.shape[1], frame.image.shape[0]), frame.K)


def camera_break(last: StreamHead, now: StreamHead) -> str:
    """Why another camera took `now`, in words; empty if it can be the same one."""
    if now.size != last.size:
        return "the image size changed from {} x {} to {} x {}".format(*last.size, *now.size)
    if now.frame_id != last.frame_id:
        return f"the frame_id changed from '{last.frame_id}' to '{now.frame_id}'"
    if last.K is None and now.K is not None:
        return "the camera's calibration came in"
    if last.K is not None and now.K is not None and not is_same_camera(last.K, now.K, now.size):
        return f"the camera's calibration changed from {in_words(last.K)} to {in_words(now.K)}"
    return ""


def is_same_camera(last: np.ndarray, now: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether two (3, 3) K can be those of one lens, at two settings of focus or zoom. size: (W, H)."""
    ratio = now[[0, 1], [0, 1]] / last[[0, 1], [0, 1]]
    shift = np.abs(now[:2, 2] - last[:2, 2]).max() / size[0]
    return bool(1 / ZOOM <= ratio[0] <= ZOOM and abs(ratio[1] / ratio[0] - 1) <= SAME_K and shift <= SHIFT)


def in_words(K: np.ndarray) -> str:
    return f"fx {K[0, 0]:.4g}, fy {K[1, 1]:.4g}, centre ({K[0, 2]:.4g}, {K[1, 2]:.4g})"


class Continuity:
    """Judges one stream. Not thread-safe."""

    def __init__(self, late: float):
        """late: seconds, as `WindowConfig.late`."""
        self.late = late
        self.reset()
        self._said: set[str] = set()

    def reset(self) -> None:
        """The next image may be anything."""
        self._last: StreamHead | None = None
        self._late_in_a_row = 0

    def completed(self, frame: Frame) -> Frame:
        """The frame with the calibration that counts for it: one that goes away is still that of the camera."""
        last, now = self._last, StreamHead.of(frame)
        if now.K is not None or last is None or last.K is None or camera_break(last, now):
            return frame
        self._say_once("the camera's calibration went away: the last one is used on")
        return replace(frame, K=last.K)

    def judge(self, frame: Frame) -> str:
        """Why `frame` starts a new world, in words; empty if it continues the present one.

        Raises LateImage for a frame that is to be left out.
        """
        last, now = self._last, StreamHead.of(frame)
        if last is None:
            return ""
        reason = camera_break(last, now) or self._time_break(last, now)
        if not reason and now.stamp_ns == last.stamp_ns:
            self._say_once(
                "the images' stamps are all 0: the driver does not fill them in. Masks and depth are right, but poses "
                "cannot be told apart by time: /tf and the trajectory have one for each stamp"
                if now.stamp_ns == 0
                else "images have equal stamps: /tf and the trajectory have one pose for each stamp"
            )
        if not reason and last.K is not None and abs(now.K[0, 0] / last.K[0, 0] - 1) > SAME_K:
            text = "the focal length changed from %.4g to %.4g pixels: a zoom, the world goes on"
            log.warning(text, last.K[0, 0], now.K[0, 0])
        return reason

    def took(self, frame: Frame) -> None:
        """`frame` has become the newest one."""
        self._last, self._late_in_a_row = StreamHead.of(frame), 0

    def _time_break(self, last: StreamHead, now: StreamHead) -> str:
        back = (last.stamp_ns - now.stamp_ns) / 1e9
        if back <= 0:
            return ""
        self._late_in_a_row += 1
        if back > self.late or self._late_in_a_row > MANY_LATE:
            return f"time jumped back by {back:.3f} s"
        raise LateImage(f"an image is {back:.3g} s older than the one before it: it is left out as late")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning(text)
