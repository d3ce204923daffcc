"""The calibration of the camera whose images come in, kept from its CameraInfo messages. Knows no node."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from easi3r_ros.messages.images import Intrinsics, intrinsics
from easi3r_ros.messages.plausible import tf_name
from easi3r_ros.messages.rectify import Lens, UnknownLens

log = logging.getLogger(__name__)


class CameraModel:
    """Holds the last CameraInfo and gives out what fits an image. Thread-safe.

    warn(text): called once per kind of problem.
    """

    def __init__(self, rectified: bool, warn: Callable[[str], None], strict: bool = False):
        """strict: a CameraInfo with another frame_id than the image's is not taken."""
        self._rectified = rectified
        self._strict = strict
        self._warn = warn
        self._warned: set[str] = set()
        self._came = threading.Event()
        self._last: tuple[Any, Intrinsics] | None = None
        self._lens: Lens | None = None  # of the last answer
        self._made: Lens | None = None
        self._lens_key: tuple | None = None

    def update(self, info: Any) -> None:
        """Take in a sensor_msgs/CameraInfo."""
        self._last = (info, intrinsics(info, self._rectified))
        self._came.set()

    @property
    def known(self) -> bool:
        """Whether any CameraInfo came."""
        return self._last is not None

    @property
    def lens(self) -> Lens | None:
        """What takes the distortion out of the images that the last answer of `matching` is about; None: nothing."""
        return self._lens

    def wait(self, seconds: float) -> None:
        """Block until the first CameraInfo came in, the time is over, or `stop_waiting`."""
        self._came.wait(seconds)

    def stop_waiting(self) -> None:
        """Nothing more will come in."""
        self._came.set()

    def matching(self, size: tuple[int, int], frame_id: str) -> tuple[Any, np.ndarray | None]:
        """(CameraInfo, K) that belong to an image of `size` = (W, H); (None, None) if there is none that fits.

        K is None, with the message, if the camera is not calibrated. With a `lens`, K is that of the rectified image.
        """
        self._lens = None
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
        if tf_name(info.header.frame_id) != tf_name(frame_id) and not self._taken_from_another_frame(info, frame_id):
            return None, None
        if model.implausible:
            self._warn_once(
                "implausible",
                f"camera_info is not used, the focal length is estimated: {model.implausible}. Calibrate the camera",
            )
            return None, None
        if model.K is None:
            self._warn_once("K", "camera_info has no calibration (K is zero): the focal length is estimated")
        elif model.distorted:
            self._lens = self._lens_of(info, model)
            if self._lens is not None:
                return info, self._lens.pinhole
        return info, model.K

    def _lens_of(self, info: Any, model: Intrinsics) -> Lens | None:
        """The lens, made anew when the calibration changes; None: what it does cannot be undone."""
        name, D = getattr(info, "distortion_model", ""), np.asarray(info.d, np.float64)
        key = (name, model.size, D.tobytes(), model.K.tobytes(), model.pinhole.tobytes())
        if key != self._lens_key:
            self._lens_key, self._made = key, None
            try:
                self._made = Lens(name, model.K, D, model.size, model.pinhole)
                log.info("lens distortion (%s) is taken out for the work, masks and depth are bent back", name or "D")
            except UnknownLens as error:
                self._warn_once(
                    "distortion",
                    f"the images have lens distortion, which is not taken out: {error}. Depth and pose get worse "
                    "towards the image's edges. Connect the rectified image (image_proc), and set image_rectified if "
                    "its topic has no 'rect'",
                )
        return self._made

    def _taken_from_another_frame(self, info: Any, frame_id: str) -> bool:
        """Drivers disagree about whether it is the body's frame or the optical one; topic and size are what counts."""
        what = f"camera_info has frame_id '{info.header.frame_id}', the images have '{frame_id}'"
        if self._strict:
            self._warn_once("frame", f"{what}: ignoring it, because camera_info_strict is set")
        else:
            self._warn_once("frame", f"{what}: it is taken, because topic and size fit (camera_info_strict refuses it)")
        return not self._strict

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            self._warn(text)
