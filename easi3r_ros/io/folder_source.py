"""Frames of a folder of images, in the natural order of their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
from natsort import natsorted

from easi3r_ros.core.types import Frame
from easi3r_ros.io.source import IMAGE_SUFFIXES, Camera, FrameSource, SourceError

DEFAULT_RATE = 30.0


class FolderSource(FrameSource):
    """A frame's stamp is its number times the frame period."""

    def __init__(self, path: Path, rate: float | None, camera: Camera):
        self.path, self._camera = path, camera
        self._rate = DEFAULT_RATE if rate is None else rate
        if not self._rate > 0:
            raise SourceError(f"the frame rate must be positive, got {rate}")
        self._files = natsorted((p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: p.name)
        if not self._files:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"'{path}' holds neither a bag (metadata.yaml, *.mcap, *.db3) nor images ({kinds})")

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
