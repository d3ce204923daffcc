"""Frames of a folder of images, in the natural order of their names."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import yaml

from easi3r_ros.core.types import Frame
from easi3r_ros.libraries import needed

OPENERS = "easi3r_ros.sources"  # group of entry points that make sources of names such as synthetic:walkers
LABORATORY = "synthetic"  # the scheme of rendered clips, which the package easi3r_lab registers
BAG_SUFFIXES = frozenset({".mcap", ".db3"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


class SourceError(ValueError):
    """An input cannot be read; the message says which, why, and what to do."""


class FrameSource(ABC):
    """Frames of one camera, in order. A context manager; every iteration starts from the first frame."""

    path: Path

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Number of frames as the file states it; None: only known at the end."""

    @property
    @abstractmethod
    def rate(self) -> float | None:
        """Mean frames per second; None: not known."""

    @property
    def topics(self) -> dict[str, str]:
        """Topic name -> message type of everything recorded; empty where there are no topics."""
        return {}

    @property
    def camera_info(self) -> Any | None:
        """The sensor_msgs/CameraInfo that was valid for the last frame; None where there is none."""
        return None

    def prepare(self, progress: Callable[[int], None] | None = None) -> None:  # noqa: B027 (a default, not a gap)
        """Do now what would make a player late, such as rendering; recordings have nothing to do.

        progress: called with the number of frames that are ready, of `length`.
        """

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Frames with indices from 0. Raises SourceError where the data cannot be decoded."""

    @abstractmethod
    def close(self) -> None:
        """Release files and decoders; closing twice is fine."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class CameraProperties:
    """What the pixels of a video or an image folder do not say about the camera."""

    frame_id: str = "camera_optical_frame"
    K: np.ndarray | None = None  # (3, 3) float64 pinhole intrinsics in pixels; None: not known
    size: tuple[int, int] | None = None  # (W, H) of the images that K is for

    def frame(self, index: int, rate: float, image: np.ndarray) -> Frame:
        """Frame `index` of a stream with `rate` frames per second that starts at time 0; image: (H, W, 3) uint8 RGB.

        Raises SourceError if the image has not the size that was calibrated.
        """
        size = (image.shape[1], image.shape[0])
        if self.size not in (None, size):
            raise SourceError(
                f"the images are {size[0]}x{size[1]}, the calibration is for {self.size[0]}x{self.size[1]} pixels"
            )
        return Frame(index, stamp_at(index, rate), self.frame_id, image, self.K)


def stamp_at(index: int, rate: float) -> int:
    """Time of a frame in integer nanoseconds, rounded down. NTSC rates (30000/1001) count as the ratios they are."""
    period = 1_000_000_000 / Fraction(rate).limit_denominator(1001)
    return int(index * period)


def open_source(
    path: Path | str,
    *,
    topic: str | None = None,
    rate: float | None = None,
    camera_info: Path | str | None = None,
    frame_id: str = CameraProperties.frame_id,
) -> FrameSource:
    """Open a rosbag2 (folder, .mcap or .db3), a video file, a folder of images, or a clip of an installed package.

    The last are names such as synthetic:walkers, which the laboratory (easi3r_lab) renders.

    topic: image topic of a bag, needed only if it has several. For videos and folders: rate, frames per second (default
    is what the video says, 30 for folders); camera_info, a calibration file of the ROS camera calibrator; frame_id, the
    camera's optical frame. Raises SourceError.
    """
    path = Path(path)
    if not path.exists() and (opener := _opener(str(path))) is not None:
        if topic is not None or camera_info is not None:
            raise SourceError(f"'{path}' brings its own camera: leave out the topic and the calibration file")
        return opener(str(path).partition(":")[2], rate, frame_id)
    if not path.exists():
        raise SourceError(f"'{path}' does not exist")
    if is_bag(path):
        if rate is not None or camera_info is not None:
            raise SourceError("a bag has its own stamps and camera_info: leave out the rate and the calibration file")
        from easi3r_ros.io.bag_source import BagSource

        return BagSource(path, topic)
    if topic is not None:
        raise SourceError(f"'{path}' is no bag and has no topics: leave out the topic '{topic}'")
    camera = CameraProperties(frame_id) if camera_info is None else load_calibration(Path(camera_info), frame_id)
    if path.is_dir():
        return FolderSource(path, rate, camera)

    return VideoSource(path, rate, camera)


def _opener(name: str) -> Callable[[str, float | None, str], FrameSource] | None:
    """What an installed package registered for the scheme of `name` (SCHEME:REST): (rest, rate, frame_id) -> source.

    None: `name` is an ordinary path. Raises SourceError where the package that could open it is missing or broken.
    """
    scheme = re.match(r"([a-z][a-z0-9_]*):", name)
    if scheme is None:
        return None
    for entry in entry_points(group=OPENERS, name=scheme[1]):
        try:
            return entry.load()
        except ImportError as error:
            raise SourceError(f"'{name}': what opens it ({entry.value}) cannot be imported: {error}") from error
    if scheme[1] == LABORATORY:
        raise SourceError(
            f"'{name}': rendered clips belong to the laboratory, which is not installed. It comes with a checkout of "
            "easi3r_ros, not with the package: pip install -e lab"
        )
    return None


def is_bag(path: Path) -> bool:
    """Whether an existing path is a recording, of whatever state; ROS 1 bags included."""
    if path.is_file():
        return path.suffix in BAG_SUFFIXES | {".bag"}
    return (path / "metadata.yaml").exists() or any(item.suffix in BAG_SUFFIXES for item in path.iterdir())


def load_calibration(path: Path, frame_id: str = CameraProperties.frame_id) -> CameraProperties:
    """Read what `camera_calibration` and camera_info_manager write. Raises SourceError."""
    try:
        data = yaml.safe_load(path.read_text())
        K = np.array(data["camera_matrix"]["data"], dtype=np.float64).reshape(3, 3)
        size = int(data["image_width"]), int(data["image_height"])
    except OSError as error:
        raise SourceError(f"cannot read the calibration file '{path}': {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"'{path}' is no camera calibration: expected image_width, image_height and camera_matrix with 9 numbers"
        ) from error
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise SourceError(f"'{path}': focal lengths must be positive, got {K[0, 0]} and {K[1, 1]}")
    return CameraProperties(frame_id, K, size)


log = logging.getLogger(__name__)


class VideoSource(FrameSource):
    """A frame's stamp is its number times the frame period."""

    def __init__(self, path: Path, rate: float | None, camera: CameraProperties):
        self.path, self._camera = path, camera
        self._capture = self._open()
        self._rate = rate if rate is not None else self._capture.get(cv2.CAP_PROP_FPS)
        if not self._rate > 0:
            self.close()
            raise SourceError(f"'{path}' has no usable frame rate ({self._rate}): give a positive one")
        # A file cut off by a crash may state nonsense here, although its frames decode.
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._length = count if count > 0 else None

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise SourceError(
                f"'{self.path}' cannot be decoded as video: truncated, damaged, no video, or OpenCV lacks its codec. "
                f"If ffmpeg plays it, this helps: ffmpeg -i '{self.path}' -c:v libx264 converted.mp4"
            )
        return capture

    @property
    def length(self) -> int | None:
        return self._length

    @property
    def rate(self) -> float:
        return self._rate

    def __iter__(self) -> Iterator[Frame]:
        self.close()
        self._capture = self._open()
        index = 0
        while (bgr := self._capture.read()[1]) is not None:
            yield self._camera.frame(index, self._rate, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
            index += 1
        if index == 0:
            raise SourceError(f"'{self.path}' holds no decodable frame: truncated, or OpenCV lacks its codec")
        if self._length is not None and index < self._length:
            log.warning(
                "'%s' ends after %d of the %d frames it states: it may be truncated", self.path, index, self._length
            )

    def close(self) -> None:
        self._capture.release()


DEFAULT_RATE = 30.0


class FolderSource(FrameSource):
    """A frame's stamp is its number times the frame period."""

    def __init__(self, path: Path, rate: float | None, camera: CameraProperties):
        self.path, self._camera = path, camera
        self._rate = DEFAULT_RATE if rate is None else rate
        if not self._rate > 0:
            raise SourceError(f"the frame rate must be positive, got {rate}")
        files = [item for item in path.iterdir() if item.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"'{path}' holds neither a bag (metadata.yaml, *.mcap, *.db3) nor images ({kinds})")
        with needed("natsort"):
            from natsort import natsorted
        self._files = natsorted(files, key=lambda item: item.name)

    @property
    def length(self) -> int:
        return len(self._files)

    @property
    def rate(self) -> float:
        return self._rate

    def __iter__(self) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            # The calibration belongs to the pixels as they are stored, so an EXIF orientation is not applied.
            bgr = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if bgr is None:
                raise SourceError(f"'{file}' cannot be decoded as an image: replace or remove it")
            yield self._camera.frame(index, self._rate, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        """Nothing stays open between frames."""
