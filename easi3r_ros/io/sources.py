"""The one interface of everything frames can come from, and what a file does not say about its camera."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from easi3r_ros.core.types import Frame

log = logging.getLogger(__name__)

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

    left_out: int = 0  # pictures that are damaged, or of another size
    late: int = 0  # pictures that are older than those before them, and left out
    breaks_off: bool = False  # its end is missing; nobody knows how much that is

    def __bool__(self) -> bool:
        return bool(self.left_out or self.late) or self.breaks_off

    def __str__(self) -> str:
        """For a person; empty if nothing was lost."""
        pictures = f"{self.left_out} damaged picture{'s'[: self.left_out != 1]} left out" if self.left_out else ""
        late = f"{self.late} picture{'s'[: self.late != 1]} older than the one before left out" if self.late else ""
        return ", ".join(
            filter(None, [pictures, late, "the recording breaks off before its end" if self.breaks_off else ""])
        )


class FrameSource(ABC):
    """Frames of one camera, in order. A context manager; every iteration starts from the first frame."""

    path: Path
    losses = Losses()  # of the last iteration, so far
    made_on_demand = False  # slower than the frames follow one another: see `prepare`

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

    def prepare(self, on_frame: Callable[[], None] = lambda: None) -> None:  # noqa: B027 (a default, not a gap)
        """Do now what would make a player late, such as rendering; recordings have nothing to do.

        on_frame(): called after each of `length` frames.
        """

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
        """Frame `index` of a stream, at `stamp_ns`; image: (H, W, 3) uint8 RGB. Raises SourceError as `checked_K`."""
        return Frame(index, stamp_ns, self.frame_id, image, self.checked_K(image))

    def checked_K(self, image: np.ndarray) -> np.ndarray | None:
        """K for an image. Raises SourceError if that has not the size that was calibrated."""
        size = (image.shape[1], image.shape[0])
        if self.size not in (None, size):
            raise SourceError(
                f"the images are {size[0]}x{size[1]}, the calibration is for {self.size[0]}x{self.size[1]} pixels"
            )
        return self.K


class Damage:
    """Counts what one iteration of a source leaves out, warns of the first ones, and ends what gives nothing."""

    NAMED = 5  # warnings; a disk full of broken files must not fill the log as well
    PATIENCE = 20  # damaged pictures at the beginning after which the kind of data must be wrong

    def __init__(self, source: FrameSource, left_out: int = 0, patience: int = PATIENCE):
        """left_out: pictures that are known not to be given, and named already."""
        self._source, self._patience, self._given, self._last = source, patience + left_out, 0, ""
        self._said = source.losses  # by the iteration before, which met the same damage
        source.losses = Losses(left_out)

    @property
    def given(self) -> int:
        """Pictures so far."""
        return self._given

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
