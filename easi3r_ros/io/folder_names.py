"""What the names in a folder of images say: which are the pictures of one camera, and when they were taken."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from easi3r_ros.io.sources import image_files

log = logging.getLogger(__name__)

HEIF_SUFFIXES = frozenset({".heic", ".heif"})
OTHER_PICTURES = frozenset({".avif", ".jxl", ".gif", ".jp2", ".exr", ".dng", ".cr2", ".nef", ".arw", ".raw", ".tga"})
NO_COLOURS = frozenset({"depth", "disp", "disparity", "mask", "seg", "label", "labels", "normal", "normals", "conf"})
_UNITS = {19: 1, 16: 1_000, 13: 1_000_000}  # digits of a time since 1970 -> nanoseconds of its unit
_LISTED = 3


def reads_heif() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def camera_images(folder: Path, items: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """(the images of a folder that are one camera's, pictures that cannot be read here); says what is left out."""
    files = [item for item in items if not item.name.startswith(".")]
    images = image_files(files)
    heif = [file for file in files if file.suffix.lower() in HEIF_SUFFIXES]
    images += heif if reads_heif() else []
    unread = [file for file in files if file.suffix.lower() in OTHER_PICTURES] + ([] if reads_heif() else heif)
    if images and unread:
        advice = "; pip install pillow-heif reads HEIC" if heif and not reads_heif() else ""
        log.warning("'%s': %s left out, no format that can be read here%s", folder, listed(unread), advice)
    colours = [file for file in images if not NO_COLOURS & set(re.split(r"[^a-z]+", file.stem.lower()))]
    if colours and len(colours) < len(images):
        left_out = listed(set(images) - set(colours))
        log.warning("'%s': %s left out: by their names no pictures of a camera", folder, left_out)
        images = colours
    _say_kinds(folder, images)
    return images, unread


def listed(files: Iterable[Path]) -> str:
    names = sorted(file.name for file in files)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _say_kinds(folder: Path, images: Sequence[Path]) -> None:
    kinds = Counter(re.sub(r"\d+", "#", file.stem) for file in images)
    many = {kind: count for kind, count in kinds.items() if count > 1}
    if len(many) > 1:
        found = ", ".join(f"{kind} ({count})" for kind, count in sorted(many.items())[:_LISTED])
        log.warning(
            "'%s' holds several kinds of pictures, %s: they are taken in the order of their names; if they are of "
            "several cameras, put each kind into a folder of its own",
            *(folder, found),
        )


def stamps_in(names: Sequence[str]) -> list[int] | None:
    """Nanoseconds that the names without suffix say, as TUM, EuRoC and KITTI-360 name their images; None: they do not.

    All of them must, and differ.
    """
    stamps = [_stamp(name) for name in names]
    if len(names) < 2 or None in stamps or len(set(stamps)) < len(stamps):
        return None
    return stamps


def _stamp(name: str) -> int | None:
    if re.fullmatch(r"\d+\.\d{1,9}", name):
        return int(Decimal(name) * 1_000_000_000)
    unit = _UNITS.get(len(name)) if name.isascii() and name.isdigit() and name[0] != "0" else None
    return None if unit is None else int(name) * unit


def median_rate(stamps: Sequence[int]) -> float:
    """Frames per second of increasing stamps."""
    gaps = sorted(b - a for a, b in pairwise(stamps))
    return 1e9 / gaps[len(gaps) // 2]
