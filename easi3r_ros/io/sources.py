"""Frames of a folder of images, in the natural order of their names."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import yaml
from natsort import natsorted

from easi3r_ros.core.types import Frame
from easi3r_ros.io.upright import calibrated, turn_of
from easi3r_ros.io.video import import_av, words
from easi3r_ros.messages.images import ConversionError, require_complete

log = logging.getLogger(__name__)

SYNTHETIC = "synthetic:"  # begins the name of a rendered clip
BAG_SUFFIXES = frozenset({".mcap", ".db3"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
VIDEO_SUFFIXES = frozenset(  # of files that stand out in a folder; any file may be opened as a video
    {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".3gp", ".wmv", ".flv", ".mpg", ".mpeg"}
)
RATES = (0.001, 1e6)  # frames per second; beyond these, stamps in nanoseconds say nothing


class SourceError(ValueError):
    """An input cannot be read; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Losses:
    """What a recording was meant to give and could not."""

    left_out: int = 0  # pictures that are damaged
    breaks_off: bool = False  # its end is missing; nobody knows how much that is

    def __bool__(self) -> bool:
        return bool(self.left_out) or self.breaks_off

    def __str__(self) -> str:
        """For a person; empty if nothing was lost."""
        pictures = f"{self.left_out} damaged picture{'s'[: self.left_out != 1]} left out" if self.left_out else ""
        return ", ".join(filter(None, [pictures, "the recording breaks off before its end" if self.breaks_off else ""]))


class FrameSource(ABC):
    """Frames of one camera, in order. A context manager; every iteration starts from the first frame."""

    path: Path
    losses = Losses()  # of the last iteration, so far

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Number of frames that the file holds, damaged ones included; None: only known at the end."""

    @property
    @abstractmethod
    def rate(self) -> float | None:
        """Frames per second, on average, as far as the file says; None: not known."""

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
        """Frames by their number in the recording, from 0; what is damaged is left out and counted in `losses`.

        Raises SourceError where nothing at all can be decoded, or the file itself is damaged.
        """

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

    def frame(self, index: int, stamp_ns: int, image: np.ndarray) -> Frame:
        """Frame `index` of a stream, at `stamp_ns`; image: (H, W, 3) uint8 RGB.

        Raises SourceError if the image has not the size that was calibrated.
        """
        size = (image.shape[1], image.shape[0])
        if self.size not in (None, size):
            raise SourceError(
                f"the images are {size[0]}x{size[1]}, the calibration is for {self.size[0]}x{self.size[1]} pixels"
            )
        return Frame(index, stamp_ns, self.frame_id, image, self.K)


class Damage:
    """Counts what one iteration of a source leaves out, warns of the first ones, and ends what gives nothing."""

    NAMED = 5  # warnings; a disk full of broken files must not fill the log as well
    PATIENCE = 20  # damaged pictures at the beginning after which the kind of data must be wrong

    def __init__(self, source: FrameSource, patience: int = PATIENCE):
        self._source, self._patience, self._given, self._last = source, patience, 0, ""
        self._said = source.losses  # by the iteration before, which met the same damage
        source.losses = Losses()

    def gave(self) -> None:
        """A picture was decoded."""
        self._given += 1

    def leave_out(self, what: str, why: object) -> None:
        """what: names the picture. Raises SourceError if there were only damaged ones so far, and many."""
        losses = replace(self._source.losses, left_out=self._source.losses.left_out + 1)
        self._source.losses = losses
        if not self._given and losses.left_out >= self._patience:
            raise SourceError(f"{what}: {why}. The {losses.left_out - 1} before it cannot be decoded either")
        if self._said.left_out < losses.left_out <= self.NAMED:
            log.warning("%s is left out: %s", what, why)
            if losses.left_out == self.NAMED:
                log.warning("what else is damaged is only counted")
        self._last = f"{what}: {why}"

    def break_off(self, why: object) -> None:
        """The rest of the recording cannot be read."""
        self._source.losses = replace(self._source.losses, breaks_off=True)
        if not self._said.breaks_off:
            log.warning("'%s' breaks off after %d frames: %s", self._source.path, self._given, why)

    def end(self) -> None:
        """Raises SourceError if there was nothing but damage."""
        if self._source.losses.left_out and not self._given:
            raise SourceError(f"none of the pictures can be decoded; the last: {self._last}")


def is_synthetic(path: Path) -> bool:
    """Whether this is the name of a rendered clip and no path."""
    return str(path).startswith(SYNTHETIC)


def image_files(items: Iterable[Path]) -> list[Path]:
    """The image files among the contents of a folder; hidden ones are no pictures (._NAME is macOS's own)."""
    return [item for item in items if item.suffix.lower() in IMAGE_SUFFIXES and not item.name.startswith(".")]


def checked_rate(rate: float) -> float:
    """The same rate, in frames per second. Raises SourceError if no stamps can be made of it; NaN is refused too."""
    if not RATES[0] <= rate <= RATES[1]:
        raise SourceError(f"the frame rate must be from {RATES[0]:g} to {RATES[1]:,.0f} per second, got {rate:g}")
    return rate


def stamp_at(index: int, rate: float) -> int:
    """Time of a frame in integer nanoseconds, rounded down. NTSC rates (30000/1001) count as the ratios they are."""
    period = 1_000_000_000 / Fraction(rate).limit_denominator(1001)
    return int(index * period)


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

# A recording that was begun in the middle of a stream cannot be decoded before its first complete picture.
PATIENCE = 500
COUNTABLE = 2 << 30  # bytes; a larger file is not read through only to know how many frames it holds
JUMP = 1_000_000_000  # nanoseconds by which the time may go back before it counts as another recording
GAP = 0.5  # seconds that a file may end before the time it states; muxers round


class VideoSource(FrameSource):
    """Frames are upright, as a player shows them.

    A frame's stamp is its time in the file since the first frame; or, if a rate is given, its number times the period.
    """

    def __init__(self, path: Path, rate: float | None, camera: CameraProperties):
        """Decodes the first frame, so that what cannot be read is refused here. Raises SourceError."""
        self.path = path
        self.given_rate = None if rate is None else checked_rate(rate)
        self._av = import_av(SourceError, "reading a video")
        with closing(self._open()) as container:
            stream = self._stream(container)
            self._say_which_stream(container, stream)
            first = self._first(container, stream)
            self._rate = self.given_rate or _mean_rate(stream, container)
            self._turn = turn_of(first, path)
            self._camera = calibrated(camera, (first.width, first.height), self._turn, path)
            self._camera.frame(0, 0, self._turn.image(_rgb(first)))  # a calibration of another size is refused
            if first.pts is None and self.given_rate is None:
                self._say_that_times_are_missing()

    @cached_property
    def length(self) -> int | None:
        """Frames that the file really holds, counted without decoding them; None for a very large file."""
        if self.path.stat().st_size > COUNTABLE:
            return None
        with closing(self._open()) as container:
            packets = container.demux(self._stream(container))
            return sum(1 for packet in packets if packet.size and not packet.is_discard)

    @property
    def rate(self) -> float | None:
        return self._rate

    def __iter__(self) -> Iterator[Frame]:
        damage, index = Damage(self, PATIENCE), -1
        with closing(self._open()) as container:
            stream = self._stream(container)
            clock, end = _Clock(self, container), _End(container, stream)
            for packet in container.demux(stream):
                clock.saw(packet)
                end.saw(packet)
                for picture, why in self._decode(packet):
                    index += 1
                    stamp = clock.stamp(index, picture)
                    if why or stamp is None:
                        why = why or "its time is not later than that of the frame before"
                        damage.leave_out(f"'{self.path}', frame {index}", why)
                        continue
                    damage.gave()
                    yield self._camera.frame(index, stamp, self._turn.image(_rgb(picture)))
        if end.missing > GAP:
            damage.break_off(f"it states {end.missing:.1f} s more")
        damage.end()

    def close(self) -> None:
        """Nothing stays open between iterations."""

    def _open(self) -> Any:
        """An av container. Raises SourceError."""
        try:
            # "file:", because a colon in a name would make it another protocol; and nothing that a playlist names.
            return self._av.open(f"file:{self.path}", options={"protocol_whitelist": "file"})
        except (self._av.error.FFmpegError, OSError) as error:
            if not self.path.stat().st_size:
                raise SourceError(f"'{self.path}' is an empty file") from error
            raise SourceError(
                f"'{self.path}' cannot be decoded as video: truncated, damaged, or no video at all ({words(error)}). "
                f"If ffmpeg plays it, this helps: ffmpeg -i '{self.path}' -c:v libx264 converted.mp4"
            ) from error

    def _stream(self, container: Any) -> Any:
        """The video stream with the most pixels; a cover picture in a sound file is none. Raises SourceError."""
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            what = "sound and no moving picture" if container.streams.audio else "no video stream"
            raise SourceError(f"'{self.path}' holds {what}")
        playable = [stream for stream in streams if stream.codec_context is not None]
        if not playable:
            raise SourceError(
                f"'{self.path}': this PyAV has no decoder for its video. With ffmpeg: "
                f"ffmpeg -i '{self.path}' -c:v libx264 converted.mp4"
            )
        return max(playable, key=lambda stream: stream.codec_context.width * stream.codec_context.height)

    def _decode(self, packet: Any) -> list[tuple[Any, str]]:
        """(av frame, empty text) of each picture that a packet completes; (frame or None, why) of damaged ones."""
        try:
            return [(picture, "parts of it are damaged" if picture.is_corrupt else "") for picture in packet.decode()]
        except self._av.error.EOFError:  # asked for more after the end
            return []
        except self._av.error.FFmpegError as error:
            return [(None, words(error))]

    def _first(self, container: Any, stream: Any) -> Any:
        damaged = 0
        for packet in container.demux(stream):
            for picture, why in self._decode(packet):
                if not why:
                    return picture
                damaged += 1
                if damaged == PATIENCE:
                    raise SourceError(f"'{self.path}': none of the first {PATIENCE} pictures can be decoded ({why})")
        raise SourceError(f"'{self.path}' holds no frame that can be decoded: it is empty, truncated or damaged")

    def _say_which_stream(self, container: Any, stream: Any) -> None:
        count = sum(1 for other in container.streams.video if not _is_cover(other))
        if count > 1:
            size = stream.codec_context.width, stream.codec_context.height
            log.warning("'%s' holds %d video streams: the largest, %d x %d, is used", self.path, count, *size)

    def _say_that_times_are_missing(self) -> None:
        if not self._rate:
            raise SourceError(f"'{self.path}' gives its frames no times and no rate: give a frame rate")
        text = "'%s' gives its frames no times: a constant %.4g per second is assumed, unless a frame rate is given"
        log.warning(text, self.path, self._rate)


class _Clock:
    """Stamps of the frames of one pass."""

    def __init__(self, source: VideoSource, container: Any):
        self._source = source
        # AVI keeps the order of decoding alone: what FFmpeg guesses for its B-frames is wrong.
        self._by_order = container.format.name == "avi"
        self._waiting: deque[int] = deque()
        self._first: Fraction | None = None
        self._last = -1

    def saw(self, packet: Any) -> None:
        if self._by_order and packet.size:
            self._waiting.append(packet.dts)

    def stamp(self, index: int, picture: Any) -> int | None:
        """Nanoseconds since the first frame, rounded down; None: not known, or not later than the frame before.

        picture: an av frame, or None for one that is damaged. Raises SourceError where the time starts again.
        """
        stamp = self._time(index, picture)
        if stamp is None or stamp <= self._last:
            back = 0 if stamp is None else self._last - stamp
            if back > JUMP:
                raise SourceError(
                    f"'{self._source.path}': at frame {index} the time goes back by {back / 1e9:.1f} s: split the "
                    "recording there, or give a frame rate, which then counts instead of the times"
                )
            return None
        self._last = stamp
        return stamp

    def _time(self, index: int, picture: Any) -> int | None:
        ticks = self._waiting.popleft() if self._waiting else getattr(picture, "pts", None)
        rate = self._source.given_rate or (self._source.rate if ticks is None and self._first is None else None)
        if rate:
            return stamp_at(index, rate)
        if ticks is None or picture is None:
            return None
        time = ticks * Fraction(picture.time_base)
        self._first = time if self._first is None else self._first
        return int((time - self._first) * 1_000_000_000)


class _End:
    """How much later a file says that it ends than its last picture does."""

    def __init__(self, container: Any, stream: Any):
        self._stream, self._seen, self._count = stream, None, 0
        self._stated: float | None = None
        if stream.duration is not None:
            self._stated = float((stream.duration + (stream.start_time or 0)) * stream.time_base)
        elif container.duration is not None and len(container.streams) == 1:  # else another stream may be longer
            self._stated = (container.duration + (container.start_time or 0)) / 1e6

    def saw(self, packet: Any) -> None:
        if packet.pts is not None and packet.size:
            self._count += 1
            end = packet.pts + (packet.duration or 0)
            self._seen = end if self._seen is None else max(self._seen, end)

    @property
    def missing(self) -> float:
        """Seconds; two frames are always allowed for."""
        if self._stated is None or self._seen is None:
            return 0.0
        seen = float(self._seen * self._stream.time_base)
        start = float((self._stream.start_time or 0) * self._stream.time_base)
        return self._stated - seen - 2 * (seen - start) / max(self._count, 1)


def _mean_rate(stream: Any, container: Any) -> float | None:
    rates = (stream.average_rate, stream.guessed_rate)
    for rate in reversed(rates) if container.format.name == "avi" else rates:  # AVI's average counts empty frames
        try:
            return checked_rate(float(rate))
        except (SourceError, TypeError, ZeroDivisionError):  # nonsense, or nothing
            continue
    return None


def _is_cover(stream: Any) -> bool:
    disposition = getattr(stream, "disposition", None)  # since PyAV 14
    if disposition is not None:
        return bool(int(disposition) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC
    return stream.codec_context is not None and stream.codec_context.name in ("mjpeg", "png") and stream.frames <= 1


def _rgb(picture: Any) -> Any:
    """(H, W, 3) uint8."""
    return picture.to_ndarray(format="rgb24")


DEFAULT_RATE = 30.0
# The calibration belongs to the pixels as they are stored, so an EXIF orientation is not applied.
FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


class FolderSource(FrameSource):
    """A frame's stamp is its number times the frame period; a damaged picture keeps its number and its time."""

    def __init__(self, path: Path, rate: float | None, camera: CameraProperties):
        self.path, self._camera = path, camera
        self._rate = checked_rate(DEFAULT_RATE if rate is None else rate)
        self._files = natsorted(image_files(path.iterdir()), key=lambda file: file.name)
        if not self._files:
            raise SourceError(f"'{path}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")

    @property
    def length(self) -> int:
        return len(self._files)

    @property
    def rate(self) -> float:
        return self._rate

    def __iter__(self) -> Iterator[Frame]:
        damage = Damage(self)
        for index, file in enumerate(self._files):
            try:
                image = _read(file)
            except (ConversionError, OSError) as error:
                damage.leave_out(f"'{file}'", getattr(error, "strerror", None) or error)
                continue
            damage.gave()
            yield self._camera.frame(index, stamp_at(index, self._rate), image)
        damage.end()

    def close(self) -> None:
        """Nothing stays open between frames."""


def _read(file: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises ConversionError and OSError."""
    data = file.read_bytes()
    require_complete(data, "the file")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), FLAGS) if data else None
    except cv2.error:  # a header that promises more pixels than OpenCV takes
        bgr = None
    if bgr is None:
        raise ConversionError("it cannot be decoded as an image" if data else "the file is empty")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
