"""Frames of a video file, decoded by OpenCV."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2

from easi3r_ros.core.types import Frame
from easi3r_ros.io.source import Camera, FrameSource, SourceError

log = logging.getLogger(__name__)


class VideoSource(FrameSource):
    """A frame's stamp is its number times the frame period."""

    def __init__(self, path: Path, rate: float | None, camera: Camera):
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
