"""Messages in: sensor_msgs Image, CompressedImage and CameraInfo to arrays, by their fields alone.

Any object with the fields of the message will do (rclpy's, rosbags', a test's), so nothing here imports ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from easi3r_ros.ros.encodings import ConversionError, decode, decode_rgb, require_colour, to_8bit

__all__ = ["ConversionError", "Intrinsics", "intrinsics", "rgb_from_compressed", "rgb_from_image", "array_from_image"]

_DISTORTION_EPS = 1e-12
_CODEC_MARKERS = (  # first bytes of the file, start of (a part of) the pixels, end of the file
    (b"\xff\xd8", b"\xff\xda", b"\xff\xd9"),  # JPEG: SOI, SOS, EOI
    (b"\x89PNG", b"IDAT", b"IEND"),
)


def rgb_from_image(message: Any) -> np.ndarray:
    """sensor_msgs/Image as a camera image: (H, W, 3) uint8 RGB that shares no memory with the message.

    Raises ConversionError for an encoding without colours (depth) or unknown, and for data that do not fit it.
    """
    return decode_rgb(
        _bytes(message.data),
        message.encoding,
        message.width,
        message.height,
        message.step,
        bool(message.is_bigendian),
    )


def array_from_image(message: Any) -> np.ndarray:
    """sensor_msgs/Image as it is (depth, labels, raw Bayer ...): (H, W[, C]) in the encoding's type.

    May share memory with the message. Raises ConversionError.
    """
    return decode(
        _bytes(message.data),
        message.encoding,
        message.width,
        message.height,
        message.step,
        bool(message.is_bigendian),
    )


def rgb_from_compressed(message: Any) -> np.ndarray:
    """sensor_msgs/CompressedImage as a camera image: (H, W, 3) uint8 RGB.

    `format` is a codec ("jpeg", "png"), or as compressed_image_transport writes it "ENCODING; CODEC compressed ORDER".
    16-bit PNGs are scaled to 8 bits. Raises ConversionError for depth, video codecs, and damaged or truncated data.
    """
    encoding, _, codec = (part.strip() for part in message.format.rpartition(";"))
    if "compressedDepth" in codec:
        raise ConversionError(
            f"compressed format '{message.format}' is that of a depth image: connect the camera's colour image"
        )
    if encoding:
        require_colour(encoding)
    data = _bytes(message.data)
    _require_complete(data.tobytes(), message.format)
    # A mask must fit the pixels as the sensor sent them, so an EXIF orientation is not applied.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:
        image = None
    if image is None:
        raise ConversionError(
            f"compressed image (format '{message.format}', {data.size} bytes) cannot be decoded; accepted: jpeg, png"
        )
    # "compressed rgb8" says that red and blue were swapped before a compressor that expects BGR saw them.
    if "compressed rgb" in codec:
        return to_8bit(np.ascontiguousarray(image))
    return to_8bit(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


@dataclass(frozen=True)
class Intrinsics:
    """What a CameraInfo says about the pixels of the image it came with."""

    K: np.ndarray | None  # (3, 3) float64, pixels of the image; None: not calibrated
    size: tuple[int, int]  # (W, H) of that image
    distorted: bool  # the image has lens distortion that K does not describe


def intrinsics(info: Any, rectified: bool = False) -> Intrinsics:
    """sensor_msgs/CameraInfo to the pinhole matrix of the image.

    rectified: the image was rectified, so P describes it (K, if P is not filled in) and distortion is gone.
    K, P and size are given for the full sensor; region of interest and binning are applied as image_geometry does.
    """
    projection = np.asarray(info.p, np.float64).reshape(3, 4)[:, :3]
    K = np.asarray(info.k, np.float64).reshape(3, 3)
    if rectified and projection[0, 0] > 0:
        K = projection
    binning = np.array([max(info.binning_x, 1), max(info.binning_y, 1)])
    roi = info.roi
    full = np.array([roi.width or info.width, roi.height or info.height])
    width, height = (int(side) for side in full // binning)
    distorted = not rectified and bool(np.any(np.abs(np.asarray(info.d, np.float64)) > _DISTORTION_EPS))
    if not (K[0, 0] > 0 and K[1, 1] > 0 and np.isfinite(K).all()):
        return Intrinsics(None, (width, height), distorted)
    image_from_sensor = np.array(
        [
            [1 / binning[0], 0, -roi.x_offset / binning[0]],
            [0, 1 / binning[1], -roi.y_offset / binning[1]],
            [0, 0, 1],
        ]
    )
    return Intrinsics(image_from_sensor @ K, (width, height), distorted)


def _bytes(data: Any) -> np.ndarray:
    """(n,) uint8 view of an array.array, bytes or ndarray; a plain sequence of ints is copied."""
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError):
        return np.asarray(data, np.uint8)


def _require_complete(data: bytes, name: str) -> None:
    """Raises ConversionError if a JPEG or PNG ends early: OpenCV would fill what is missing with grey."""
    for magic, pixels, end in _CODEC_MARKERS:
        # The end must come after the last pixels; an embedded thumbnail has an end of its own before them.
        if data.startswith(magic) and data.rfind(end) <= data.rfind(pixels):
            raise ConversionError(f"compressed image (format '{name}') is truncated: it ends after {len(data)} bytes")
