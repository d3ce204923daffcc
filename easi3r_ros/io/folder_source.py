"""Frames of a folder of images, in the natural order of their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from easi3r_ros.core.types import Frame
from easi3r_ros.io.sources import (
    IMAGE_SUFFIXES,
    CameraProperties,
    Damage,
    FrameSource,
    SourceError,
    checked_rate,
    image_files,
    stamp_at,
)
from easi3r_ros.libraries import needed
from easi3r_ros.messages.bit_depth import BitDepth
from easi3r_ros.messages.images import ConversionError, require_complete, to_8bit

DEFAULT_RATE = 30.0
# The calibration belongs to the pixels as they are stored, so an EXIF orientation is not applied.
FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


class FolderSource(FrameSource):
    """A frame's stamp is its number times the frame period; a damaged picture keeps its number and its time."""

    def __init__(self, path: Path, rate: float | None, camera: CameraProperties):
        self.path, self._camera = path, camera
        self._rate = checked_rate(DEFAULT_RATE if rate is None else rate)
        files = image_files(path.iterdir())
        if not files:
            raise SourceError(f"'{path}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        with needed("natsort"):
            from natsort import natsorted
        self._files = natsorted(files, key=lambda file: file.name)

    @property
    def length(self) -> int:
        return len(self._files)

    @property
    def rate(self) -> float:
        return self._rate

    def __iter__(self) -> Iterator[Frame]:
        damage, depth = Damage(self), BitDepth()
        for index, file in enumerate(self._files):
            try:
                image = _read(file, depth)
            except (ConversionError, OSError) as error:
                damage.leave_out(f"'{file}'", getattr(error, "strerror", None) or error)
                continue
            damage.gave()
            yield self._camera.frame(index, stamp_at(index, self._rate), image)
        damage.end()

    def close(self) -> None:
        """Nothing stays open between frames."""


def _read(file: Path, depth: BitDepth) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises ConversionError and OSError."""
    data = file.read_bytes()
    require_complete(data, "the file")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), FLAGS) if data else None
    except cv2.error:  # a header that promises more pixels than OpenCV takes
        bgr = None
    if bgr is None:
        raise ConversionError("it cannot be decoded as an image" if data else "the file is empty")
    return to_8bit(cv2.cvtColor(depth.widened(bgr), cv2.COLOR_BGR2RGB))
