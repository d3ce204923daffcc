"""Messages in: sensor_msgs Image, CompressedImage and CameraInfo to arrays, by their fields alone.

Any object with the fields of the message will do (rclpy's, rosbags', a test's), so nothing here imports ROS. For camera
images ask ros_libraries.camera_image, which takes cv_bridge for some of them where it is installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from easi3r_ros.messages.jpeg import is_cut_short
from easi3r_ros.messages.plausible import why_implausible
from easi3r_ros.messages.rectify import is_bent, pinhole_of


class ConversionError(ValueError):
    """A message cannot be read; the text says what came and what is accepted."""


@dataclass(frozen=True)
class Layout:
    """How an encoding lies in memory. Planar YUV has its own layout and is not described by this."""

    dtype: str  # NumPy type of one element without byte order: u1, i1, u2, i2, i4, f4, f8
    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray] | None  # (H, W[, C]) native -> (H, W, 3) uint8; None: no colours

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize


def to_8bit(image: np.ndarray) -> np.ndarray:
    """uint8 as it is, uint16 divided by 257 = 65535/255 and rounded."""
    # OpenCV's product is rounded in single precision; 257 is odd, so no quotient is near enough to a half to go wrong.
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255 / 65535)


def _cvt(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: cv2.cvtColor(to_8bit(image), code)


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.array(image, order="C") if image.dtype == np.uint8 else to_8bit(image)


def _demosaiced(code: int) -> Callable[[np.ndarray], np.ndarray]:
    """16-bit sensors keep their depth until their neighbours are averaged."""
    return lambda image: to_8bit(cv2.cvtColor(image, code))


_GRAY = _cvt(cv2.COLOR_GRAY2RGB)
_BGR = _cvt(cv2.COLOR_BGR2RGB)
_BGRA = _cvt(cv2.COLOR_BGRA2RGB)

# OpenCV names a Bayer pattern by its second row's second and third pixel: RGGB is its "BG".
_BAYER_CODES = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}


def _packed_layouts() -> dict[str, Layout]:
    layouts = {}
    for bits, dtype in (("8", "u1"), ("16", "u2")):
        layouts[f"mono{bits}"] = Layout(dtype, 1, _GRAY)
        layouts[f"rgb{bits}"] = Layout(dtype, 3, _rgb)
        layouts[f"bgr{bits}"] = Layout(dtype, 3, _BGR)
        layouts[f"rgba{bits}"] = Layout(dtype, 4, _cvt(cv2.COLOR_RGBA2RGB))
        layouts[f"bgra{bits}"] = Layout(dtype, 4, _BGRA)
        for pattern, code in _BAYER_CODES.items():
            layouts[f"bayer_{pattern}{bits}"] = Layout(dtype, 1, _demosaiced(code))
    for name in ("uyvy", "yuv422"):
        layouts[name] = Layout("u1", 2, _cvt(cv2.COLOR_YUV2RGB_UYVY))
    for name in ("yuyv", "yuv422_yuy2"):
        layouts[name] = Layout("u1", 2, _cvt(cv2.COLOR_YUV2RGB_YUY2))
    return layouts


_PACKED = _packed_layouts()
# Rows of `width` bytes per row of the image. nv12 is not in sensor_msgs before 2025, but many cameras send it.
_PLANAR = {
    "nv12": Fraction(3, 2),
    "nv21": Fraction(3, 2),
    "nv24": Fraction(3),
    "i420": Fraction(3, 2),
    "yv12": Fraction(3, 2),
}
_SEMI_PLANAR_CODES = {
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
    "i420": cv2.COLOR_YUV2RGB_I420,
    "yv12": cv2.COLOR_YUV2RGB_YV12,
}
_OTHER_NAMES = {"yuv420": "i420", "yuv420p": "i420", "iyuv": "i420", "yuy2": "yuyv"}
_ABSTRACT = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)(?:C([1-9]\d{0,2})?)?")
_DTYPES = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}
# Abstract encodings carry no colour order; unsigned images with these channel counts are what OpenCV programs publish
# with cv_bridge's "passthrough", in OpenCV's order, BGR.
_ABSTRACT_COLOURS = {("8U", 1): _GRAY, ("8U", 3): _BGR, ("8U", 4): _BGRA, ("16U", 3): _BGR, ("16U", 4): _BGRA}
_DEPTH_TYPES = ("u2", "f4", "f8")

COLOUR_ENCODINGS = (*_PACKED, *_PLANAR, "8UC1", "8UC3", "8UC4", "16UC3", "16UC4")


def canonical(encoding: str) -> str:
    """The name of an encoding as it is known here: for YUV, drivers also write NV12 or yuv420p."""
    lower = encoding.lower()
    return lower if lower in _PLANAR else _OTHER_NAMES.get(lower, encoding)


def layout_of(encoding: str) -> Layout:
    """The layout of a packed encoding. Raises ConversionError if the encoding is unknown or planar."""
    if encoding in _PACKED:
        return _PACKED[encoding]
    match = _ABSTRACT.fullmatch(encoding)
    if not match:
        raise ConversionError(
            f"unknown image encoding '{encoding}'; accepted: {', '.join((*_PACKED, *_PLANAR))}, "
            "and 8U, 8S, 16U, 16S, 32S, 32F, 64F with C1 to C4"
        )
    channels = int(match[2] or 1)
    return Layout(_DTYPES[match[1]], channels, _ABSTRACT_COLOURS.get((match[1], channels)))


def require_colour(encoding: str) -> None:
    """Raises ConversionError if `encoding` is not that of a camera image."""
    encoding = canonical(encoding)
    if encoding in _PLANAR:
        return
    layout = layout_of(encoding)
    if layout.to_rgb is not None:
        return
    accepted = ", ".join(COLOUR_ENCODINGS)
    if layout.channels == 1 and layout.dtype in _DEPTH_TYPES:
        raise ConversionError(
            f"encoding '{encoding}' is that of a depth image, not of a camera image: connect the camera's colour or "
            f"grey image; accepted: {accepted}"
        )
    raise ConversionError(f"encoding '{encoding}' does not say what its channels mean; accepted: {accepted}")


def decode(data: np.ndarray, encoding: str, width: int, height: int, step: int, bigendian: bool) -> np.ndarray:
    """Raw bytes as they are: (H, W) or (H, W, C) in the encoding's type and native byte order, padding cut off.

    May share memory with `data`.

    data: (n,) uint8. step: bytes per row. nv12 and nv21 give their two planes as (H * 3 / 2, W), nv24 as (H * 3, W).
    Raises ConversionError if the size, the step or the amount of data do not fit the encoding.
    """
    encoding = canonical(encoding)
    if width <= 0 or height <= 0:
        raise ConversionError(f"image of {width} x {height} pixels is empty")
    if encoding in _PLANAR:
        return _planes(data, encoding, width, height, step)
    layout = layout_of(encoding)
    row = width * layout.channels * layout.itemsize
    rows = _rows(data, height, step, row, f"{encoding} image of {width} x {height}")
    if layout.itemsize > 1:
        rows = np.ascontiguousarray(rows)  # padding may leave a row where no number of this size can start
    order = ">" if bigendian else "<"
    image = rows.view(f"{order}{layout.dtype}").astype(layout.dtype, copy=False)
    return image if layout.channels == 1 else image.reshape(height, width, layout.channels)


def decode_rgb(data: np.ndarray, encoding: str, width: int, height: int, step: int, bigendian: bool) -> np.ndarray:
    """Raw bytes as a camera image: (H, W, 3) uint8 RGB, contiguous, not sharing memory with `data`.

    16-bit values are scaled by 255/65535, alpha is dropped, YUV is BT.601 with limited range. Raises ConversionError.
    """
    require_colour(encoding)
    encoding = canonical(encoding)
    _require_even(encoding, width, height)
    image = decode(data, encoding, width, height, step, bigendian)
    if encoding in _SEMI_PLANAR_CODES:
        return cv2.cvtColor(image, _SEMI_PLANAR_CODES[encoding])
    if encoding == "nv24":
        return _nv24_to_rgb(image, width, height)
    return layout_of(encoding).to_rgb(image)


def _rows(data: np.ndarray, height: int, step: int, row: int, what: str) -> np.ndarray:
    """(height, row) view of the bytes that carry pixels."""
    if step < row:
        raise ConversionError(f"{what} has a step of {step} bytes; a row needs at least {row}")
    # Some drivers leave out the padding after the last row.
    needed = step * (height - 1) + row
    if data.size < needed:
        raise ConversionError(f"{what} with a step of {step} has {data.size} bytes of data; it needs {needed}")
    return np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)


def _planes(data: np.ndarray, encoding: str, width: int, height: int, step: int) -> np.ndarray:
    """Luma rows, then the interleaved chroma rows: half as many, or for nv24 as many but twice as wide."""
    row_count = int(height * _PLANAR[encoding])
    # Drivers disagree about the step of planes without padding: width, 2 * width (sensor_msgs once counted two
    # channels), all the data divided by the height. Their amount is that of no other layout.
    stride = width if data.size == row_count * width else step
    what = f"{encoding} image of {width} x {height}"
    if encoding != "nv24":
        return _rows(data, row_count, stride, width, what)
    luma = _rows(data, height, stride, width, what)
    chroma = _rows(data[height * stride :], height, 2 * stride, 2 * width, f"chroma of {what}")
    return np.concatenate([luma, chroma.reshape(2 * height, width)])  # (h, 2w) -> (2h, w)


def _require_even(encoding: str, width: int, height: int) -> None:
    columns = encoding in ("uyvy", "yuv422", "yuyv", "yuv422_yuy2", *_SEMI_PLANAR_CODES)
    if (columns and width % 2) or (encoding in _SEMI_PLANAR_CODES and height % 2):
        raise ConversionError(f"{encoding} shares colours between neighbouring pixels: {width} x {height} must be even")


# BT.601, limited range: what OpenCV applies to the other YUV encodings, for which it has no nv24.
_RGB_FROM_YUV = np.array([[1.164, 0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0]])
_RGB_FROM_YUV1 = np.column_stack([_RGB_FROM_YUV, -_RGB_FROM_YUV @ [16, 128, 128]])


def _nv24_to_rgb(planes: np.ndarray, width: int, height: int) -> np.ndarray:
    yuv = cv2.merge([planes[:height], planes[height:].reshape(height, width, 2)])  # (2h, w) -> (h, w, 2)
    return cv2.transform(yuv, _RGB_FROM_YUV1)


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


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image


def rgb_from_compressed(message: Any, widened: Callable[[np.ndarray], np.ndarray] = _as_it_is) -> np.ndarray:
    """sensor_msgs/CompressedImage as a camera image: (H, W, 3) uint8 RGB.

    `format` is a codec ("jpeg", "png"), or as compressed_image_transport writes it "ENCODING; CODEC compressed ORDER".
    A picture of one channel that is said to be Bayer is demosaiced. 16-bit PNGs are scaled to 8 bits, after
    widened(), which may know how many of them are used. Raises ConversionError for depth, video codecs, and damaged or
    truncated data.
    """
    encoding, _, codec = (part.strip() for part in message.format.rpartition(";"))
    if "compressedDepth" in codec:
        raise ConversionError(
            f"compressed format '{message.format}' is that of a depth image: connect the camera's colour image"
        )
    if encoding:
        require_colour(encoding)
    data = _bytes(message.data)
    require_complete(data.tobytes(), f"compressed image (format '{message.format}')")
    # A mask must fit the pixels as the sensor sent them, so an EXIF orientation is not applied.
    mosaic = canonical(encoding).startswith("bayer_")
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    flags |= cv2.IMREAD_ANYCOLOR if mosaic else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:
        image = None
    if image is None:
        raise ConversionError(
            f"compressed image (format '{message.format}', {data.size} bytes) cannot be decoded; accepted: jpeg, png"
        )
    if is_cut_short(data.tobytes(), image):
        what = f"compressed image (format '{message.format}')"
        raise ConversionError(f"{what} is truncated: its pixels end before the image does")
    image = widened(image)
    if mosaic and (image.ndim == 2 or _is_grey(image)):
        single = image if image.ndim == 2 else np.ascontiguousarray(image[..., 0])
        return layout_of(canonical(encoding)).to_rgb(single)
    # "compressed rgb8" says that red and blue were swapped before a compressor that expects BGR saw them.
    if "compressed rgb" in codec:
        return to_8bit(np.ascontiguousarray(image))
    return to_8bit(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _is_grey(image: np.ndarray) -> bool:
    """Whether a codec without grey pictures was given one."""
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())


def require_complete(data: bytes, what: str) -> None:
    """Raises ConversionError if a JPEG or PNG ends early: OpenCV would fill what is missing with grey.

    what: names the image, for the message.
    """
    for magic, pixels, end in _CODEC_MARKERS:
        # The end must come after the last pixels; an embedded thumbnail has an end of its own before them.
        if data.startswith(magic) and data.rfind(end) <= data.rfind(pixels):
            raise ConversionError(f"{what} is truncated: it ends after {len(data)} bytes")


@dataclass(frozen=True)
class Intrinsics:
    """What a CameraInfo says about the pixels of the image it came with."""

    K: np.ndarray | None  # (3, 3) float64, pixels of the image; None: not calibrated
    size: tuple[int, int]  # (W, H) of that image
    distorted: bool  # the image has lens distortion that K does not describe
    implausible: str = ""  # why K is None, if one is given that no camera can have
    pinhole: np.ndarray | None = None  # (3, 3) float64, pixels of the image after its distortion is taken out


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
    D = np.asarray(info.d, np.float64)
    distorted = not rectified and is_bent(getattr(info, "distortion_model", ""), D)
    if not K[0, 0] and not K[1, 1]:  # what sensor_msgs calls uncalibrated
        return Intrinsics(None, (width, height), distorted)
    image_from_sensor = np.array(
        [
            [1 / binning[0], 0, -roi.x_offset / binning[0]],
            [0, 1 / binning[1], -roi.y_offset / binning[1]],
            [0, 0, 1],
        ]
    )
    K = image_from_sensor @ K
    implausible = why_implausible(K, (width, height), None if rectified else D)
    if implausible:
        return Intrinsics(None, (width, height), distorted, implausible)
    rotation = np.asarray(getattr(info, "r", np.zeros(9)), np.float64).reshape(3, 3)
    pinhole = pinhole_of(K, image_from_sensor @ projection, rotation, (width, height)) if distorted else K
    return Intrinsics(K, (width, height), distorted, pinhole=pinhole)


def _bytes(data: Any) -> np.ndarray:
    """(n,) uint8 view of an array.array, bytes or ndarray; a plain sequence of ints is copied."""
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError):
        return np.asarray(data, np.uint8)
