"""How many bits the values of 16-bit images really have: sensors of 10, 12 and 14 bits fill the lower ones."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from easi3r_ros.messages.images import ConversionError, array_from_image, canonical, layout_of, rgb_from_compressed
from easi3r_ros.messages.ros_libraries import camera_image

log = logging.getLogger(__name__)

USUAL = (8, 10, 12, 14, 16)


class BitDepth:
    """Brings the values of one camera's 16-bit images to the full range. Not thread-safe.

    The range is the smallest usual one that holds all values so far; it only grows: brightness must not flicker.
    """

    def __init__(self, bits: int = 0):
        """bits: of the values, 8 to 16; 0: learned."""
        self._given, self._learned = bits, 0

    def widened(self, image: np.ndarray) -> np.ndarray:
        """uint16 values with the highest bit in use; any other type as it is."""
        if image.dtype != np.uint16:
            return image
        shift = 16 - (self._given or self._learn(int(image.max(initial=0))))
        return np.minimum(image, (1 << 16 - shift) - 1) << np.uint16(shift) if shift else image

    def _learn(self, highest: int) -> int:
        bits = next(usual for usual in USUAL if highest < 1 << usual)
        if bits > self._learned:
            if self._learned:
                log.warning(
                    "16-bit images have values up to %d: taken as %d bits from now on, not %d, so they become darker; "
                    "image_bits says it from the beginning",
                    *(highest, bits, self._learned),
                )
            elif bits < 16:
                log.info("16-bit images have values up to %d: taken as %d bits", highest, bits)
            self._learned = bits
        return self._learned


class ImageReader:
    """sensor_msgs Image and CompressedImage of one camera as (H, W, 3) uint8 RGB. Not thread-safe."""

    def __init__(self, bits: int = 0):
        """bits: as `BitDepth`."""
        self._depth = BitDepth(bits)

    def raw(self, message: Any) -> np.ndarray:
        """As `camera_image`. Raises ConversionError."""
        if _has_16_bits(message.encoding):
            values = array_from_image(message)
            wide = self._depth.widened(values)
            if wide is not values:
                message = _with_values(message, wide)
        return camera_image(message)

    def compressed(self, message: Any) -> np.ndarray:
        """As `rgb_from_compressed`. Raises ConversionError."""
        return rgb_from_compressed(message, self._depth.widened)


def _has_16_bits(encoding: str) -> bool:
    try:
        layout = layout_of(canonical(encoding))
    except ConversionError:
        return False
    return layout.dtype == "u2" and layout.to_rgb is not None


def _with_values(message: Any, values: np.ndarray) -> Any:
    """The same image with other values: (H, W[, C]) uint16."""
    return SimpleNamespace(
        encoding=message.encoding,
        width=message.width,
        height=message.height,
        step=values.nbytes // message.height,
        is_bigendian=int(sys.byteorder == "big"),
        data=values.tobytes(),
    )
