"""Masks as other programs read them, and their images without what moves. By the messages' fields alone; no node."""

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np

from easi3r_ros.messages.conversions import fill_data
from easi3r_ros.messages.images import ConversionError, array_from_image, canonical, layout_of, require_colour
from easi3r_ros.messages.message_types import Header, Image

MOVES = 128  # an external mask is meant to have 0 and 255 alone; whoever blurred or compressed it gets the nearer one
_SAME_SHAPE = 0.01  # relative difference of width / height that rounding may cause
_BLACK_LUMA, _NO_COLOUR = 16, 128  # limited range, as the decoder has it
_YUV_422 = {"uyvy": 1, "yuv422": 1, "yuyv": 0, "yuv422_yuy2": 0}  # which of a pixel's two bytes is its luma
_SEMI_PLANAR = ("nv12", "nv21", "nv24")  # one plane of luma, one with both colours in turn
_PLANAR = ("i420", "yv12")  # a plane of luma and one of each colour
# What REP-118 says of a pixel without depth: 0 in 16 bits (millimetres), NaN in floating point (metres).
_NO_DEPTH = {"16UC1": ("u2", 0), "mono16": ("u2", 0), "32FC1": ("f4", np.nan), "64FC1": ("f8", np.nan)}


def static_mask(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool, True on what moves -> (H, W) uint8: 255 static, 0 dynamic, as OpenCV takes it."""
    return np.where(mask, np.uint8(0), np.uint8(255))


def fitted(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool at another size (W', H') of the same picture: True wherever a part of the pixel was.

    Raises ConversionError if the shapes say that it is not the same picture.
    """
    height, width = mask.shape
    if (width, height) == size:
        return mask
    if abs(width / height * size[1] / size[0] - 1) > _SAME_SHAPE:
        raise ConversionError(f"{width} x {height} and {size[0]} x {size[1]} pixels do not show the same picture")
    interpolation = cv2.INTER_AREA if size[0] < width else cv2.INTER_NEAREST
    return cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=interpolation) > 0


def external_mask(message: Any) -> np.ndarray:
    """sensor_msgs/Image mono8 of somebody else, 255 where something moves or is to be left out -> (H, W) bool.

    Raises ConversionError.
    """
    if message.encoding not in ("mono8", "8UC1"):
        raise ConversionError(
            f"a mask must be mono8 (255: moves or is to be left out, 0: static), this one is '{message.encoding}'"
        )
    return array_from_image(message) >= MOVES


def blacked_out(message: Any, mask: np.ndarray) -> Image:
    """A copy of a camera's sensor_msgs/Image, encoding, step and padding included, that is black where the mask is.

    mask: (H, W) bool. Where pixels share their colour (YUV 4:2:2, 4:2:0) a static neighbour becomes grey and keeps its
    luma. Alpha stays. Raises ConversionError for an encoding that is not a camera image's.
    """
    require_colour(message.encoding)
    data, encoding = bytearray(message.data), canonical(message.encoding)
    if encoding in _SEMI_PLANAR or encoding in _PLANAR:
        _black_planes(np.frombuffer(data, np.uint8), message, mask)
    else:
        layout = layout_of(encoding)
        pixels = _pixels(data, message, layout.dtype, layout.channels)
        if encoding in _YUV_422:
            pairs = np.repeat(mask[:, 0::2] | mask[:, 1::2], 2, axis=1)  # of pixels with one colour
            luma = _YUV_422[encoding]
            pixels[mask, luma] = _BLACK_LUMA
            pixels[pairs, 1 - luma] = _NO_COLOUR
        else:
            pixels[..., : min(layout.channels, 3)][mask] = 0
    return _copy(message, data)


def without_movers(depth: Any, mask: np.ndarray) -> Image:
    """A copy of a depth image in which nothing is known where the mask is: 0 in 16UC1, NaN in 32FC1.

    mask: (H, W) bool, of the same picture (`fitted`). Raises ConversionError.
    """
    if depth.encoding not in _NO_DEPTH:
        raise ConversionError(f"a depth image must be one of {', '.join(_NO_DEPTH)}, this one is '{depth.encoding}'")
    dtype, nothing = _NO_DEPTH[depth.encoding]
    array_from_image(depth)  # its size, step and data fit
    data = bytearray(depth.data)
    _pixels(data, depth, dtype, 1)[fitted(mask, (depth.width, depth.height))] = nothing
    return _copy(depth, data)


def with_header(message: Any, header: Header) -> Any:
    """The same message under another header; the data are shared."""
    out = copy.copy(message)
    out.header = header
    return out


def _pixels(data: bytearray, message: Any, dtype: str, channels: int) -> np.ndarray:
    """(H, W, C) view of the bytes that carry pixels, in their byte order. Raises ConversionError."""
    kind = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    shape = (message.height, message.width, channels)
    needed = message.step * (message.height - 1) + message.width * channels * kind.itemsize
    if len(data) < needed:
        raise ConversionError(f"image of {message.width} x {message.height} has {len(data)} bytes, needs {needed}")
    return np.ndarray(shape, kind, data, strides=(message.step, channels * kind.itemsize, kind.itemsize))


def _black_planes(data: np.ndarray, message: Any, mask: np.ndarray) -> None:
    height, width = mask.shape
    encoding = canonical(message.encoding)
    full = encoding == "nv24"  # a colour per pixel, else per 2 x 2 of them
    rows = 3 * height if full else 3 * height // 2
    stride = width if data.size == rows * width else message.step  # as images.decode has it
    luma = np.lib.stride_tricks.as_strided(data, (height, width), (stride, 1))
    luma[mask] = _BLACK_LUMA
    start = data[height * stride :]
    if full:
        np.lib.stride_tricks.as_strided(start, (height, width, 2), (2 * stride, 2, 1))[mask] = _NO_COLOUR
        return
    blocks = mask.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3))
    if encoding in _PLANAR:
        np.lib.stride_tricks.as_strided(start, (2, *blocks.shape), (start.size // 2, stride // 2, 1))[:, blocks] = (
            _NO_COLOUR
        )
    else:
        np.lib.stride_tricks.as_strided(start, (height // 2, width // 2, 2), (stride, 2, 1))[blocks] = _NO_COLOUR


def _copy(message: Any, data: bytearray) -> Image:
    made = Image(
        header=message.header,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=message.is_bigendian,
        step=message.step,
    )
    fill_data(made, np.frombuffer(data, np.uint8))
    return made
