"""The one interface of everything frames can come from: a rosbag2, a video file, a folder of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import yaml

from easi3r_ros.core.types import Frame

SYNTHETIC = "synthetic:"  # begins the name of a rendered clip
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
class Camera:
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
    frame_id: str = Camera.frame_id,
) -> FrameSource:
    """Open a rosbag2 (folder, .mcap or .db3), a video file, a folder of images, or a rendered clip (synthetic:PRESET).

    topic: image topic of a bag, needed only if it has several. For videos and folders: rate, frames per second (default
    is what the video says, 30 for folders); camera_info, a calibration file of the ROS camera calibrator; frame_id, the
    camera's optical frame. Raises SourceError.
    """
    path = Path(path)
    if str(path).startswith(SYNTHETIC):
        if topic is not None or camera_info is not None:
            raise SourceError(f"'{path}' is rendered, its camera is known: leave out topic and calibration file")
        from easi3r_ros.io.synthetic_source import SyntheticSource

        return SyntheticSource(str(path), rate, frame_id)
    if not path.exists():
        raise SourceError(f"'{path}' does not exist")
    if is_bag(path):
        if rate is not None or camera_info is not None:
            raise SourceError("a bag has its own stamps and camera_info: leave out the rate and the calibration file")
        from easi3r_ros.io.bag_source import BagSource

        return BagSource(path, topic)
    if topic is not None:
        raise SourceError(f"'{path}' is no bag and has no topics: leave out the topic '{topic}'")
    camera = Camera(frame_id) if camera_info is None else load_calibration(Path(camera_info), frame_id)
    if path.is_dir():
        from easi3r_ros.io.folder_source import FolderSource

        return FolderSource(path, rate, camera)
    from easi3r_ros.io.video_source import VideoSource

    return VideoSource(path, rate, camera)


def is_bag(path: Path) -> bool:
    """Whether an existing path is a recording, of whatever state; ROS 1 bags included."""
    if path.is_file():
        return path.suffix in BAG_SUFFIXES | {".bag"}
    return (path / "metadata.yaml").exists() or any(item.suffix in BAG_SUFFIXES for item in path.iterdir())


def load_calibration(path: Path, frame_id: str = Camera.frame_id) -> Camera:
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
    return Camera(frame_id, K, size)
