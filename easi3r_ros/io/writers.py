"""Results as files, one result at a time: mask PNGs, a TUM trajectory, PLY clouds, an overlay video.

Every writer keeps its files readable after each result, or, where the format does not allow that (video), once closed.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ros.core.clouds import split_cloud
from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import FrameResult, PointCloud
from easi3r_ros.io.manifest import Record
from easi3r_ros.io.video_source import import_av, words

log = logging.getLogger(__name__)

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


def unrecorded(path: Path, complete: bool) -> None:
    """For writers outside of a run: nobody keeps a list of what they make."""


class ResultWriter(ABC):
    """Takes results in the order of their frames. A context manager.

    record(path, complete): called with each file and folder when it was made (False) and when it is complete (True).
    """

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

    def __init__(self, folder: Path, record: Record = unrecorded):
        _make_folder(folder, record)
        self._folder, self._record = folder, record

    def write(self, result: FrameResult) -> None:
        path = self._folder / f"{file_stem(result)}.png"
        if not cv2.imwrite(str(path), result.as_received.mask.astype(np.uint8) * 255):
            raise WriteError(f"cannot write '{path}': is the disk full?")
        self._record(path, True)

    def close(self) -> None:
        """Every file is finished already."""


class TrajectoryWriter(ResultWriter):
    """world_from_cam, a line per frame, in the TUM format: stamp tx ty tz qx qy qz qw (seconds, world units).

    Stamps are made from the integer nanoseconds, so that they compare equal to the input's. A frame without a pose
    (before tracking starts, or lost), or without metres that were asked for, has no line, nor has one that is not
    later than the line before it. A comment says where a new world starts, if nothing was left to attach to.
    """

    def __init__(self, path: Path, record: Record = unrecorded):
        self._path, self._record = path, record
        self._file = path.open("w", encoding="ascii")
        self._file.write("# stamp[s] tx ty tz qx qy qz qw\n")
        self._file.flush()
        self._world: int | None = None
        self._last_ns: int | None = None
        self._told = False
        record(path, False)

    def write(self, result: FrameResult) -> None:
        if not result.state.has_pose or result.withheld or not self._is_later(result.frame.stamp_ns):
            return
        if self._world not in (None, result.world):
            self._file.write("# a new world: poses and lengths below must not be compared with those above\n")
        self._world = result.world
        seconds, nanoseconds = divmod(result.frame.stamp_ns, 1_000_000_000)
        pose = result.world_from_cam
        values = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
        self._file.write(f"{seconds}.{nanoseconds:09d} {' '.join(f'{value:.9g}' for value in values)}\n")
        self._file.flush()

    def _is_later(self, stamp_ns: int) -> bool:
        """Than the last line: whoever reads the file takes that for granted."""
        later = self._last_ns is None or stamp_ns > self._last_ns
        if later:
            self._last_ns = stamp_ns
        elif not self._told:
            self._told = True
            log.warning("'%s' leaves poses out: their stamps are not later than those before them", self._path)
        return later

    def close(self) -> None:
        self._file.close()
        self._record(self._path, True)


class CloudWriter(ResultWriter):
    """Of every n-th frame: static points, added to FOLDER/static.ply; dynamic ones, as FOLDER/dynamic/INDEX_STAMP.ply.

    All in the world frame and world units. What moves is elsewhere in the next frame, so it is not accumulated. A frame
    without a pose has no place in the world and is left out.
    """

    def __init__(self, folder: Path, config: CloudConfig, every: int, record: Record = unrecorded):
        self._config, self._every, self._record = config, every, record
        self._dynamic_folder = folder / "dynamic"
        _make_folder(folder, record)
        _make_folder(self._dynamic_folder, record)
        self._static_path = folder / "static.ply"
        self._static = PlyFile(self._static_path)
        record(self._static_path, False)

    def write(self, result: FrameResult) -> None:
        if result.frame.index % self._every or not result.state.has_pose or result.withheld:
            return
        static, dynamic = (in_world(cloud, result.world_from_cam) for cloud in split_cloud(result, self._config))
        self._static.append(static)
        path = self._dynamic_folder / f"{file_stem(result)}.ply"
        file = PlyFile(path)
        file.append(dynamic)
        file.close()
        self._record(path, True)

    def close(self) -> None:
        self._static.close()
        self._record(self._static_path, True)


def _make_folder(folder: Path, record: Record) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        record(folder, True)


def in_world(cloud: PointCloud, world_from_cam: np.ndarray) -> PointCloud:
    """A cloud in the camera's frame, moved into the world by the camera's (4, 4) pose."""
    xyz = cloud.xyz @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
    return PointCloud(xyz.astype(np.float32), cloud.rgb, cloud.confidence)


class OverlayWriter(ResultWriter):
    """The camera's images as MP4, with what moves tinted and outlined; each is shown at its stamp.

    H.264 in 4:2:0, which plays everywhere. Sizes are even there: an odd one gets its last column or row twice.
    """

    COLOUR_BGR = (60, 60, 255)
    TINT = 0.4
    TICKS = 90_000  # per second: every usual frame rate is a whole number of them
    PAUSE = 60.0  # seconds; longer gaps, and stamps that go back, are played as one frame period
    # Nothing is held back, and no B-frames, so that any player gets the times right; the matrix that the conversion to
    # YUV uses is written down.
    ENCODER = {"preset": "veryfast", "tune": "zerolatency", "crf": "20", "x264-params": "colormatrix=smpte170m"}
    # In fragments of half a second, so that what was written can be played if this process is killed; since FFmpeg 7.1
    # closing makes an ordinary file of it.
    HYBRID_SINCE = (61, 7, 100)

    def __init__(self, path: Path, rate: float, record: Record = unrecorded):
        """rate: frames per second where stamps do not say. Raises WriteError where there is no encoder."""
        self._path, self._rate, self._record = path, rate, record
        self._av = import_av(WriteError, "the overlay video", ", or leave it out (--no-video)")
        if "libx264" not in self._av.codecs_available:
            raise WriteError(
                f"cannot write '{path}': this PyAV has no H.264 encoder (libx264); pip install 'av>=12' has one, or "
                "leave the video out (--no-video)"
            )
        self._container: Any = None
        self._stream: Any = None
        self._ticks, self._stamp_ns = 0, 0

    def write(self, result: FrameResult) -> None:
        image = _even(draw_overlay(result, self.COLOUR_BGR, self.TINT))
        if self._container is None:
            self._open(image.shape[1], image.shape[0])
        else:
            self._ticks += self._gap(result.frame.stamp_ns - self._stamp_ns)
        self._stamp_ns = result.frame.stamp_ns
        picture = self._av.VideoFrame.from_ndarray(image, format="bgr24")
        picture.pts, picture.time_base = self._ticks, Fraction(1, self.TICKS)
        self._mux(picture)

    def close(self) -> None:
        if self._container is None:
            return
        try:
            self._mux(None)
        finally:
            container, self._container = self._container, None
            container.close()
            self._record(self._path, True)

    def _open(self, width: int, height: int) -> None:
        ticks = Fraction(1, self.TICKS)
        try:
            container = self._av.open(f"file:{self._path}", "w", format="mp4", options=self._muxer())
            rate = Fraction(self._rate).limit_denominator(1001)
            self._stream = container.add_stream("libx264", rate=rate, options=self.ENCODER)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.time_base = self._stream.codec_context.time_base = ticks
            container.start_encoding()  # makes the file, which else comes with the first packet
        except (self._av.error.FFmpegError, OSError) as error:
            raise WriteError(f"cannot write '{self._path}': {words(error)}") from error
        self._container = container
        self._record(self._path, False)

    def _muxer(self) -> dict[str, str]:
        hybrid = tuple(self._av.library_versions["libavformat"]) >= self.HYBRID_SINCE
        whole = "hybrid_fragmented" if hybrid else "frag_keyframe+empty_moov+default_base_moof"
        return {"movflags": whole, "frag_duration": "500000", "flush_packets": "1"}

    def _gap(self, nanoseconds: int) -> int:
        """Ticks until the next picture, at least one."""
        if not 0 < nanoseconds <= self.PAUSE * 1e9:
            nanoseconds = round(1e9 / self._rate)
        return max(1, round(nanoseconds * self.TICKS / 1e9))

    def _mux(self, picture: Any) -> None:
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except self._av.error.FFmpegError as error:
            raise WriteError(f"cannot write '{self._path}': {words(error)}") from error


def _even(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return image


def draw_overlay(result: FrameResult, colour_bgr: tuple[int, int, int], tint: float) -> np.ndarray:
    """(H, W, 3) uint8 BGR: the image with the mask tinted by `tint` in [0, 1] and outlined."""
    seen = result.as_received
    image = cv2.cvtColor(seen.frame.image, cv2.COLOR_RGB2BGR)
    moving = seen.mask
    image[moving] = ((1 - tint) * image[moving] + tint * np.array(colour_bgr)).astype(np.uint8)
    outlines, _ = cv2.findContours(moving.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image, outlines, -1, colour_bgr, max(1, round(image.shape[0] / 400)))
