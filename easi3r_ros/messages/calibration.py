"""The calibration of the camera whose images come in, kept from its CameraInfo messages. Knows no node."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from easi3r_ros.messages.images import Intrinsics, intrinsics


class CameraModel:
    """Holds the last CameraInfo and gives out what fits an image. Thread-safe.

    warn(text): called once per kind of problem.
    """

    def __init__(self, rectified: bool, warn: Callable[[str], None]):
        self._rectified = rectified
        self._warn = warn
        self._warned: set[str] = set()
        self._came = threading.Event()
        self._last: tuple[Any, Intrinsics] | None = None

    def update(self, info: Any) -> None:
        """Take in a sensor_msgs/CameraInfo."""
        self._last = (info, intrinsics(info, self._rectified))
        self._came.set()

    def wait(self, seconds: float) -> None:
        """Block until the first CameraInfo came in, the time is over, or `stop_waiting`."""
        self._came.wait(seconds)

    def stop_waiting(self) -> None:
        """Nothing more will come in."""
        self._came.set()

    def matching(self, size: tuple[int, int], frame_id: str) -> tuple[Any, np.ndarray | None]:
        """(CameraInfo, K) that belong to an image of `size` = (W, H); (None, None) if there is none that fits.

        K is None, with the message, if the camera is not calibrated.
        """
        if self._last is None:
            return None, None
        info, model = self._last
        if model.size != size:
            self._warn_once(
                "size",
                "camera_info is for images of {} x {}, the images are {} x {}: ignoring it. "
                "Connect the camera_info that belongs to the image topic".format(*model.size, *size),
            )
            return None, None
        if info.header.frame_id != frame_id:
            self._warn_once(
                "frame",
                f"camera_info has frame_id '{info.header.frame_id}', the images have '{frame_id}': ignoring it. "
                "Connect the camera_info that belongs to the image topic",
            )
            return None, None
        if model.K is None:
            self._warn_once("K", "camera_info has no calibration (K is zero): the focal length is estimated")
        elif model.distorted:
            self._warn_once(
                "distortion",
                "the images have lens distortion, which is not modelled: depth and pose get worse towards the image's "
                "edges. Connect the rectified image (image_proc), and set image_rectified if its topic has no 'rect'",
            )
        return info, model.K

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            self._warn(text)
