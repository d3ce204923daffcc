"""A cloud as a PLY or PCD file, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from easi3r_ros.core.types import PointCloud

FORMATS = (".ply", ".pcd")
_PLY = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")]
)
_PCD = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("confidence", "<f4")])


class MapFileError(ValueError):
    """A map cannot be written; the message says why and what to do."""


def save_cloud(cloud: PointCloud, path: str, overwrite: bool, comment: str = "") -> Path:
    """Write the points to an absolute path that ends with .ply or .pcd; returns it.

    overwrite: replace a file that is there. comment: one line that is written into the file. What was there stays as it
    was until the new file is complete. Raises MapFileError.
    """
    target = _checked(path, overwrite)
    data = (_ply if target.suffix.lower() == ".ply" else _pcd)(cloud, comment)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise MapFileError(f"cannot write into '{target.parent}': {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o666 & ~_umask())
        if overwrite:
            os.replace(name, target)
        else:
            os.link(name, target)  # fails where somebody else was faster; a rename would not
    except FileExistsError as error:
        raise MapFileError(_about_existing(target)) from error
    except OSError as error:
        raise MapFileError(f"cannot write '{target}': {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    return target


def _checked(path: str, overwrite: bool) -> Path:
    target = Path(os.path.expanduser(path.strip()))
    if not path.strip():
        raise MapFileError("no path: give an absolute one that ends with .ply or .pcd")
    if not target.is_absolute():
        raise MapFileError(
            f"'{path}' is relative, and the node's folder is not yours: give an absolute path, such as "
            f"'{Path.home() / target.name}'"
        )
    if target.suffix.lower() not in FORMATS:
        raise MapFileError(f"'{path}' must end with {' or '.join(FORMATS)}, which says what is written")
    if not target.parent.is_dir():
        raise MapFileError(f"there is no folder '{target.parent}': make it first")
    if target.is_dir():
        raise MapFileError(f"'{target}' is a folder")
    if target.exists() and not overwrite:
        raise MapFileError(_about_existing(target))
    return target


def _about_existing(target: Path) -> str:
    return f"'{target}' is there already: take another name, or set overwrite"


def _umask() -> int:
    """The process's, without the moment of another one that asking for it by os.umask would be."""
    with suppress(OSError, ValueError), open("/proc/self/status") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
    return 0o022


def _ply(cloud: PointCloud, comment: str) -> bytes:
    points = np.empty(len(cloud.xyz), _PLY)
    points["x"], points["y"], points["z"] = cloud.xyz.T
    points["red"], points["green"], points["blue"] = cloud.rgb.T
    points["confidence"] = cloud.confidence
    kinds = {"<f4": "float", "|u1": "uchar"}
    properties = "".join(f"property {kinds[_PLY[name].str]} {name}\n" for name in _PLY.names)
    said = f"comment {comment}\n" if comment else ""
    header = f"ply\nformat binary_little_endian 1.0\n{said}element vertex {len(points)}\n{properties}end_header\n"
    return header.encode("utf-8") + points.tobytes()


def _pcd(cloud: PointCloud, comment: str) -> bytes:
    """PCL's format 0.7; rgb is 0x00RRGGBB as an unsigned number."""
    points = np.empty(len(cloud.xyz), _PCD)
    points["x"], points["y"], points["z"] = cloud.xyz.T
    r, g, b = cloud.rgb.T.astype(np.uint32)
    points["rgb"] = (r << 16) | (g << 8) | b
    points["confidence"] = cloud.confidence
    header = (
        f"# .PCD v0.7 - Point Cloud Data file format\n{f'# {comment}' + chr(10) if comment else ''}VERSION 0.7\n"
        f"FIELDS {' '.join(_PCD.names)}\nSIZE 4 4 4 4 4\nTYPE F F F U F\nCOUNT 1 1 1 1 1\n"
        f"WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA binary\n"
    )
    return header.encode("utf-8") + points.tobytes()
