"""Frames of a folder of images, upright, in the natural order of their names, or by the times that those say."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from easi3r_ros.core.types import Frame
from easi3r_ros.io.folder_names import HEIF_SUFFIXES, camera_images, listed, median_rate, stamps_in
from easi3r_ros.io.sources import (
    IMAGE_SUFFIXES,
    CameraProperties,
    Damage,
    FrameSource,
    SourceError,
    checked_rate,
    stamp_at,
)
from easi3r_ros.io.video_source import Turn, calibrated
from easi3r_ros.libraries import needed
from easi3r_ros.messages.bit_depth import BitDepth
from easi3r_ros.messages.images import ConversionError, require_complete, to_8bit
from easi3r_ros.messages.jpeg import is_cut_short

log = logging.getLogger(__name__)

DEFAULT_RATE = 30.0
FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
ORIENTATION = 0x0112  # of EXIF
TURNS = {  # by its value: (rows and columns exchanged, then rows and columns turned round)
    2: Turn(False, False, True),
    3: Turn(False, True, True),
    4: Turn(False, True, False),
    5: Turn(True, False, False),
    6: Turn(True, False, True),
    7: Turn(True, True, True),
    8: Turn(True, True, False),
}


class FolderSource(FrameSource):
    """A frame's stamp is what its name says, if all names are times; else its number times the frame period.

    A damaged picture keeps its number and its time.
    """

    def __init__(self, path: Path, rate: float | None, camera: CameraProperties):
        """rate: frames per second, which then counts instead of the names. Raises SourceError."""
        self.path, self._camera = path, camera
        self._cameras: dict[Turn, CameraProperties] = {}
        given = None if rate is None else checked_rate(rate)
        files, self._unread = camera_images(path, path.iterdir())
        if not files:
            other = f"; there are {listed(self._unread)}" if self._unread else ""
            raise SourceError(f"'{path}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}){other}")
        with needed("natsort"):
            from natsort import natsorted
        files = natsorted(files, key=lambda file: file.name)
        stamps = None if given else stamps_in([file.stem for file in files])
        if stamps is None:
            self._rate = given or DEFAULT_RATE
            stamps = [stamp_at(index, self._rate) for index in range(len(files))]
        else:
            self._rate = median_rate(sorted(stamps))
            log.info("'%s': the names of the images are their times", path)
        self._files = sorted(zip(stamps, files, strict=True), key=lambda item: item[0])

    @property
    def length(self) -> int:
        return len(self._files)

    @property
    def rate(self) -> float:
        return self._rate

    def __iter__(self) -> Iterator[Frame]:
        damage, depth = Damage(self, len(self._unread)), BitDepth()
        for index, (stamp, file) in enumerate(self._files):
            try:
                image, turn = _read(file, depth)
            except (ConversionError, OSError) as error:
                damage.leave_out(f"'{file}'", getattr(error, "strerror", None) or error)
                continue
            damage.gave()
            yield self._camera_of(turn, image).frame(index, stamp, turn.image(image))
        damage.end()

    def close(self) -> None:
        """Nothing stays open between frames."""

    def _camera_of(self, turn: Turn, stored: np.ndarray) -> CameraProperties:
        if turn not in self._cameras:
            size = stored.shape[1], stored.shape[0]
            self._cameras[turn] = calibrated(self._camera, size, turn, self.path)
        return self._cameras[turn]


def _read(file: Path, depth: BitDepth) -> tuple[np.ndarray, Turn]:
    """(H, W, 3) uint8 RGB as stored, and how it becomes upright. Raises ConversionError and OSError."""
    data = file.read_bytes()
    if file.suffix.lower() in HEIF_SUFFIXES:
        return _read_heif(data), Turn()
    require_complete(data, "the file")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), FLAGS) if data else None
    except cv2.error:  # a header that promises more pixels than OpenCV takes
        bgr = None
    if bgr is None:
        raise ConversionError("it cannot be decoded as an image" if data else "the file is empty")
    if is_cut_short(data, bgr):
        raise ConversionError("the file is truncated: its pixels end before the image does")
    return to_8bit(cv2.cvtColor(depth.widened(bgr), cv2.COLOR_BGR2RGB)), _turn(data)


def _turn(data: bytes) -> Turn:
    """What EXIF asks of who shows the picture."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return TURNS.get(image.getexif().get(ORIENTATION), Turn())
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):  # no kind that PIL knows, or broken EXIF
        return Turn()


def _read_heif(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright as the library gives it. Raises ConversionError."""
    import pillow_heif

    try:
        return np.array(pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True).to_pillow().convert("RGB"))
    except Exception as error:  # a broken file may raise anything
        raise ConversionError(f"it cannot be decoded as HEIC ({error})") from error
