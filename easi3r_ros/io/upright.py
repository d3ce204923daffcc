"""Videos that are stored turned: phones keep the pixels as the sensor sent them, and write down how to show them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from easi3r_ros.io.sources import CameraProperties

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
