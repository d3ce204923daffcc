"""Camera images in, clouds out: by ROS's own libraries where they are installed and do it well, else by our own code.

The one place that decides. cv_bridge and sensor_msgs_py come with an apt ROS 2 alone; the results are the same pixels
and bytes either way (test_convert.py and test_ros_messages.py run one table of cases through both).

Measured with cv_bridge 3.4.0 (Debian's OpenCV 4.6, NumPy 2.4) and sensor_msgs_py 5.3.7 on x86-64. "x" is the CPU time
of the library over that of our own code: medians for 640 x 480 and 1920 x 1080, and for 20,000 to 500,000 points, on a
virtual machine whose fresh pages are dear (4 us each), which makes every copy look dear.

    what                                    by whom         why
    bayer_*8, bayer_*16                     cv_bridge       same pixels, x0.9 to 1.5
    rgb16, bgr16, rgba16, bgra16            cv_bridge       same pixels, x1.1 to 1.5
    rgb8, bgr8, rgba8, bgra8, mono8         own code        same pixels, x1.2 to 1.7: it copies the result once more
    mono16                                  own code        same pixels, x2.4 to 2.7
    yuv422, yuv422_yuy2                     own code        same pixels, x1.5 to 1.8
    uyvy, yuyv, nv12, nv21, nv24, 8UC       own code        unknown to cv_bridge
    8U, 8UC1, 8UC3, 8UC4, 16UC3, 16UC4      own code        cv_bridge refuses: they name no colours
    big-endian (8 bits too)                 own code        cv_bridge raises AttributeError with NumPy 2
    padded rows                             own code        cv_bridge skews the image, unless whole pixels are padded
    padding left out after the last row     own code        cv_bridge raises TypeError
    data as a list, 16 bits                 own code        cv_bridge takes the bytes for numbers
    CompressedImage                         own code        cv_bridge fills what is truncated with grey
    PointCloud2                             sensor_msgs_py  same bytes (is_dense is set here), x1.3 to 2.4: a copy more

cv_bridge does not let other threads run while it converts (4 ms at most for 1920 x 1080), and brings an OpenCV of its
own where cv2 did not come from apt. It is loaded for the encodings that it is to read, not for others.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from easi3r_ros.core.types import PointCloud
from easi3r_ros.messages.conversions import cloud_message, is_dense, packed_points, point_fields
from easi3r_ros.messages.images import layout_of, rgb_from_image
from easi3r_ros.messages.message_types import WITH_ROS, Header, PointCloud2

log = logging.getLogger(__name__)

CV_BRIDGE_ENCODINGS = frozenset(
    [f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)]
    + ["rgb16", "bgr16", "rgba16", "bgra16"]
)


@dataclass(frozen=True)
class RosLibrary:
    """A library of ROS as it is on this machine."""

    name: str
    entry: Any | None  # what is called: a CvBridge, the module point_cloud2; None: our own code stands in
    why_not: str = ""  # for a person
    broken: bool = False  # it is there, but cannot be used


def camera_image(message: Any) -> np.ndarray:
    """sensor_msgs/Image as a camera image: (H, W, 3) uint8 RGB that shares no memory with the message.

    Raises ConversionError for an encoding without colours (depth) or unknown, and for data that do not fit it.
    """
    if is_read_by_cv_bridge(message.encoding) and _is_plain(message):
        return cv_bridge().entry.imgmsg_to_cv2(message, "rgb8")
    return rgb_from_image(message)


def point_cloud(cloud: PointCloud, header: Header) -> PointCloud2:
    """Unordered cloud with float32 fields x, y, z, rgb (0x00RRGGBB in a float's bits, as PCL has it) and confidence."""
    library = sensor_msgs_py()
    return cloud_message(cloud, header) if library.entry is None else _created_cloud(library.entry, cloud, header)


@cache
def cv_bridge() -> RosLibrary:
    """cv_bridge, tried with a small image of every encoding that it is to read; a warning if it is there and unfit."""
    name = "cv_bridge"
    package = _package_folder(name)
    if package is None:
        return RosLibrary(name, None, "is not installed")
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0" and _compiled_for_numpy_1(package):
        # Its import succeeds, and the first image ends the process with a segmentation fault.
        return _unfit(name, f"was compiled for NumPy 1, and this is NumPy {np.__version__}")
    try:
        bridge = importlib.import_module(name).CvBridge()
        for encoding in sorted(CV_BRIDGE_ENCODINGS):
            image = _sample(encoding)
            difference = np.abs(bridge.imgmsg_to_cv2(image, "rgb8").astype(int) - rgb_from_image(image)).max()
            if difference > 1:  # 1: its OpenCV may be another one
                return _unfit(name, f"reads a pixel of '{encoding}' wrong by {difference}")
    except Exception as error:  # a foreign package of that name, or one half-installed, may fail in any way
        return _unfit(name, f"failed its test with {type(error).__name__}: {error}")
    return RosLibrary(name, bridge)


@cache
def sensor_msgs_py() -> RosLibrary:
    """sensor_msgs_py, tried with a small cloud; a warning if it is there and unfit."""
    name = "sensor_msgs_py"
    if _package_folder(name) is None:
        return RosLibrary(name, None, "is not installed")
    if not WITH_ROS:
        return RosLibrary(name, None, "is of no use while this package's messages are not built")
    cloud = PointCloud(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.uint8) * 200, np.ones(3, np.float32))
    try:
        module = importlib.import_module(f"{name}.point_cloud2")
        if _created_cloud(module, cloud, Header()) != cloud_message(cloud, Header()):
            return _unfit(name, "makes clouds of other bytes or fields")
    except Exception as error:  # as above
        return _unfit(name, f"failed its test with {type(error).__name__}: {error}")
    return RosLibrary(name, module)


@lru_cache(maxsize=64)  # a sender may make up encodings for ever
def is_read_by_cv_bridge(encoding: str) -> bool:
    """Whether plain images of this encoding are given to cv_bridge. Says in the log who reads them, once."""
    if encoding not in CV_BRIDGE_ENCODINGS:
        log.debug("images of encoding '%s' are read by this package's code", encoding)
        return False
    library = cv_bridge()
    if library.entry is None:
        log.debug("images of encoding '%s' are read by this package's code: cv_bridge %s", encoding, library.why_not)
        return False
    log.debug("images of encoding '%s' are read by cv_bridge", encoding)
    return True


def _is_plain(message: Any) -> bool:
    """Without what cv_bridge gets wrong: padding, big-endian numbers, data as a list, missing or surplus data."""
    layout = layout_of(message.encoding)
    row = message.width * layout.channels * layout.itemsize
    return (
        not message.is_bigendian
        and message.step == row
        and len(message.data) == row * message.height > 0
        and not isinstance(message.data, list)
    )


def _sample(encoding: str) -> SimpleNamespace:
    """A plain image of 8 x 6 different pixels."""
    layout = layout_of(encoding)
    step = 8 * layout.channels * layout.itemsize
    data = np.random.default_rng(0).integers(0, 256, 6 * step, np.uint8)
    return SimpleNamespace(encoding=encoding, width=8, height=6, step=step, is_bigendian=0, data=data)


def _created_cloud(point_cloud2: Any, cloud: PointCloud, header: Header) -> PointCloud2:
    # Humble's create_cloud has these three arguments, later ones have more.
    message = point_cloud2.create_cloud(header, point_fields(), packed_points(cloud))
    message.is_dense = is_dense(cloud)  # create_cloud says False of every cloud
    return message


def _unfit(name: str, why_not: str) -> RosLibrary:
    log.warning("%s %s: this package's own code stands in", name, why_not)
    return RosLibrary(name, None, why_not, broken=True)


def _package_folder(name: str) -> Path | None:
    """Where Python would import the package from, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def _compiled_for_numpy_1(package: Path) -> bool:
    """Whether compiled code in the package knows NumPy 1 alone; what is compiled for NumPy 2 names numpy._core too."""
    codes = (path.read_bytes() for path in package.rglob("*.so"))
    return any(b"numpy.core._multiarray" in code and b"numpy._core._multiarray" not in code for code in codes)
