"""Point clouds as PLY: binary little endian, x, y, z, red, green, blue, confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from easi3r_ros.core.types import PointCloud

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
