"""Results as files, one result at a time: mask PNGs, a TUM trajectory, PLY clouds, an overlay video.

Every writer keeps its files readable after each result, or, where the format does not allow that (video), once closed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ros.core.clouds import split_cloud
from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import FrameResult, PointCloud

VERTEX = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")]
)
_NAMES = {"<f4": "float", "|u1": "uchar"}
_COUNT_WIDTH = 12  # the number of points is written over again, so it always takes this many characters


class PlyFile:
    """Grows by appending clouds; the file is complete after every `append`."""

    def __init__(self, path: Path):
        """Raises OSError."""
        self._file = path.open("wb")
        self._count = 0
        properties = "".join(f"property {_NAMES[VERTEX[name].str]} {name}\n" for name in VERTEX.names)
        self._file.write(b"ply\nformat binary_little_endian 1.0\nelement vertex ")
        self._count_at = self._file.tell()
        self._file.write(f"{0:0{_COUNT_WIDTH}d}\n{properties}end_header\n".encode("ascii"))
        self._file.flush()

    def append(self, cloud: PointCloud) -> None:
        """Add points. Raises OSError."""
        vertices = np.empty(len(cloud.xyz), VERTEX)
        vertices["x"], vertices["y"], vertices["z"] = cloud.xyz.T
        vertices["red"], vertices["green"], vertices["blue"] = cloud.rgb.T
        vertices["confidence"] = cloud.confidence
        self._file.seek(0, 2)
        self._file.write(vertices.tobytes())
        # The points first, then their number: whoever reads in between sees a shorter cloud, never a broken one.
        self._file.flush()
        self._count += len(vertices)
        self._file.seek(self._count_at)
        self._file.write(f"{self._count:0{_COUNT_WIDTH}d}".encode("ascii"))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class WriteError(RuntimeError):
    """An output cannot be written; the message says which, why, and what to do."""


class ResultWriter(ABC):
    """Takes results in the order of their frames. A context manager."""

    @abstractmethod
    def write(self, result: FrameResult) -> None:
        """Raises WriteError, or OSError where the disk is full or gone."""

    @abstractmethod
    def close(self) -> None:
        """Finish the files."""

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def file_stem(result: FrameResult) -> str:
    """Sorts by time and says which frame it is: INDEX_STAMP, the stamp in nanoseconds."""
    return f"{result.frame.index:06d}_{result.frame.stamp_ns}"


class MaskWriter(ResultWriter):
    """FOLDER/INDEX_STAMP.png per frame: 8 bits, 0 static, 255 dynamic, the camera's size."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def write(self, result: FrameResult) -> None:
        path = self._folder / f"{file_stem(result)}.png"
        if not cv2.imwrite(str(path), result.mask.astype(np.uint8) * 255):
            raise WriteError(f"cannot write '{path}': is the disk full?")

    def close(self) -> None:
        """Every file is finished already."""


class TrajectoryWriter(ResultWriter):
    """world_from_cam, a line per frame, in the TUM format: stamp tx ty tz qx qy qz qw (seconds, world units).

    Stamps are made from the integer nanoseconds, so that they compare equal to the input's. A frame without a pose
    (before tracking starts, or lost) has no line. A comment says where a new world starts, if nothing was left to
    attach to.
    """

    def __init__(self, path: Path):
        self._file = path.open("w", encoding="ascii")
        self._file.write("# stamp[s] tx ty tz qx qy qz qw\n")
        self._world: int | None = None

    def write(self, result: FrameResult) -> None:
        if not result.state.has_pose:
            return
        if self._world not in (None, result.world):
            self._file.write("# a new world: poses and lengths below must not be compared with those above\n")
        self._world = result.world
        seconds, nanoseconds = divmod(result.frame.stamp_ns, 1_000_000_000)
        pose = result.world_from_cam
        values = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
        self._file.write(f"{seconds}.{nanoseconds:09d} {' '.join(f'{value:.9g}' for value in values)}\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class CloudWriter(ResultWriter):
    """Of every n-th frame: static points, added to FOLDER/static.ply; dynamic ones, as FOLDER/dynamic/INDEX_STAMP.ply.

    All in the world frame and world units. What moves is elsewhere in the next frame, so it is not accumulated. A frame
    without a pose has no place in the world and is left out.
    """

    def __init__(self, folder: Path, config: CloudConfig, every: int):
        self._config, self._every = config, every
        self._dynamic_folder = folder / "dynamic"
        self._dynamic_folder.mkdir(parents=True, exist_ok=True)
        self._static = PlyFile(folder / "static.ply")

    def write(self, result: FrameResult) -> None:
        if result.frame.index % self._every or not result.state.has_pose:
            return
        static, dynamic = (in_world(cloud, result.world_from_cam) for cloud in split_cloud(result, self._config))
        self._static.append(static)
        file = PlyFile(self._dynamic_folder / f"{file_stem(result)}.ply")
        file.append(dynamic)
        file.close()

    def close(self) -> None:
        self._static.close()


def in_world(cloud: PointCloud, world_from_cam: np.ndarray) -> PointCloud:
    """A cloud in the camera's frame, moved into the world by the camera's (4, 4) pose."""
    xyz = cloud.xyz @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
    return PointCloud(xyz.astype(np.float32), cloud.rgb, cloud.confidence)


class OverlayWriter(ResultWriter):
    """The camera's images as MP4, with what moves tinted and outlined."""

    COLOUR_BGR = (60, 60, 255)
    TINT = 0.4

    def __init__(self, path: Path, rate: float):
        self._path, self._rate = path, rate
        self._video: cv2.VideoWriter | None = None

    def write(self, result: FrameResult) -> None:
        image = draw_overlay(result, self.COLOUR_BGR, self.TINT)
        if self._video is None:
            self._video = self._open(image.shape[1], image.shape[0])
        self._video.write(image)

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        video = cv2.VideoWriter(str(self._path), cv2.VideoWriter_fourcc(*"mp4v"), self._rate, (width, height))
        if not video.isOpened():
            raise WriteError(f"cannot write '{self._path}': OpenCV has no MP4 encoder here; leave the video out")
        return video

    def close(self) -> None:
        if self._video is not None:
            self._video.release()


def draw_overlay(result: FrameResult, colour_bgr: tuple[int, int, int], tint: float) -> np.ndarray:
    """(H, W, 3) uint8 BGR: the image with the mask tinted by `tint` in [0, 1] and outlined."""
    image = cv2.cvtColor(result.frame.image, cv2.COLOR_RGB2BGR)
    moving = result.mask
    image[moving] = ((1 - tint) * image[moving] + tint * np.array(colour_bgr)).astype(np.uint8)
    outlines, _ = cv2.findContours(moving.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image, outlines, -1, colour_bgr, max(1, round(image.shape[0] / 400)))
