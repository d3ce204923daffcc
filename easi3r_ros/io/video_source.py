"""Frames of a video file, decoded by PyAV with the times that the container gives them, upright."""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from easi3r_ros.core.types import Frame
from easi3r_ros.io.sources import CameraProperties, Damage, FrameSource, SourceError, checked_rate, stamp_at

log = logging.getLogger(__name__)


def import_av(error: type[Exception], purpose: str, otherwise: str = "") -> Any:
    """The module `av`. Raises `error` with what to install where it is missing.

    purpose: what needs it; otherwise: what else can be done.
    """
    try:
        av = importlib.import_module("av")
    except ImportError as missing:
        raise error(f"{purpose} needs PyAV: pip install 'av>=12' (it brings FFmpeg along){otherwise}") from missing
    # What FFmpeg mutters about a broken file, our own errors say in words.
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    return av


def words(error: BaseException) -> str:
    """What FFmpeg says about a failure, without the number and the path."""
    return getattr(error, "strerror", None) or str(error)


log = logging.getLogger(__name__)

Size = tuple[int, int]  # (W, H)


@dataclass(frozen=True)
class Turn:
    """From stored pixels to upright ones: rows and columns exchanged, then either turned round."""

    swaps: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    @property
    def any(self) -> bool:
        return self.swaps or self.flips_rows or self.flips_columns

    def image(self, stored: np.ndarray) -> np.ndarray:
        """(H, W, 3) as stored -> upright, contiguous."""
        upright = stored.transpose(1, 0, 2) if self.swaps else stored
        upright = upright[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]
        return np.ascontiguousarray(upright)

    def size(self, stored: Size) -> Size:
        return stored[::-1] if self.swaps else stored

    def intrinsics(self, K: np.ndarray, stored: Size) -> np.ndarray:
        """(3, 3) intrinsics of stored images -> of upright ones; the camera's axes turn with the image's."""
        width, height = self.size(stored)
        axes = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]) if self.swaps else np.eye(3)
        axes = np.diag([-1.0 if self.flips_columns else 1.0, -1.0 if self.flips_rows else 1.0, 1.0]) @ axes
        pixels = axes.copy()
        pixels[0, 2] = width - 1 if self.flips_columns else 0
        pixels[1, 2] = height - 1 if self.flips_rows else 0
        return pixels @ K @ axes.T


def turn_of(picture: Any, path: Path) -> Turn:
    """What the file asks of who shows its pictures. picture: an av frame."""
    matrix = _display_matrix(picture)
    if matrix is None:
        return Turn()
    a, b, c, d = (int(round(matrix[index] / 65536)) for index in (0, 1, 3, 4))  # x' = a x + c y, y' = b x + d y
    if (abs(a), abs(b), abs(c), abs(d)) == (1, 0, 0, 1):
        return Turn(False, d < 0, a < 0)
    if (abs(a), abs(b), abs(c), abs(d)) == (0, 1, 1, 0):
        return Turn(True, b < 0, c < 0)
    log.warning("'%s' asks to be turned by no quarter turn: its pictures are used as they are stored", path)
    return Turn()


def calibrated(camera: CameraProperties, stored: Size, turn: Turn, path: Path) -> CameraProperties:
    """The camera of the upright images; says what it makes of a calibration where the stored ones lie otherwise."""
    if camera.size is None or not turn.any:
        return camera
    upright = turn.size(stored)
    text = "'%s' is stored turned (%d x %d, upright %d x %d): the calibration is "
    if camera.size == upright:
        log.warning(text + "taken as that of the upright images", path, *stored, *upright)
        return camera
    if camera.size == stored:
        log.warning(text + "that of the stored ones and turned with them", path, *stored, *upright)
        return replace(camera, K=turn.intrinsics(camera.K, stored), size=upright)
    return camera


def _display_matrix(picture: Any) -> np.ndarray | None:
    """(9,) int32, row by row, 16.16 fixed point, as libavutil/display.h has it; None: shown as stored."""
    for index in range(len(picture.side_data)):
        item = picture.side_data[index]
        if item.type.name == "DISPLAYMATRIX":
            return np.frombuffer(bytes(item), np.int32)
    return None


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
        damage, index = Damage(self, patience=PATIENCE), -1
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
