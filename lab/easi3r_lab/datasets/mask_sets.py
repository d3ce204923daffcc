"""SegTrack v2 and FBMS-59: videos whose movers are outlined.

    SegTrackv2/JPEGImages/NAME/*.png, SegTrackv2/GroundTruth/NAME/*.png, or per object NAME/1/*.png, NAME/2/*.png
    FBMS/Trainingset/NAME/*.jpg, FBMS/Testset/NAME/*.jpg, annotated every 20th frame or so: NAME/GroundTruth/*.png

Not sure: which colour of an FBMS annotation is background. Distributions differ (indices, or colours); here it is black
where there is any, else the colour most frequent along the image's border. Annotations are found by the last number in
their names, whatever is around it.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from easi3r_lab.datasets.recorded import DataSetError, RecordedVideo, evenly, needed_folder, pictures, read_raw

RATE = 24.0  # Hz; neither data set says
FBMS_PARTS = ("Trainingset", "Testset")
ANNOTATIONS = (".png", ".pgm", ".ppm", ".bmp", ".jpg")


def find_segtrackv2(root: Path) -> list[RecordedVideo]:
    """Every sequence, its objects together one foreground. Raises DataSetError."""
    what = "the folder that holds JPEGImages and GroundTruth"
    images, truth = needed_folder(root, "JPEGImages", what), needed_folder(root, "GroundTruth", what)
    names = sorted(path.name for path in images.iterdir() if path.is_dir())
    if not names:
        raise DataSetError(f"{images} is empty: unpack the data set again")
    return [_segtrack(name, images / name, truth / name) for name in names]


def _segtrack(name: str, images: Path, truth: Path) -> RecordedVideo:
    found = pictures(images, name)
    if not truth.is_dir():
        raise DataSetError(f"sequence '{name}': {truth} is missing: the data set is not fully unpacked")
    objects = sorted(path for path in truth.iterdir() if path.is_dir()) or [truth]
    layers = [_annotations(folder) for folder in objects]
    for folder, layer in zip(objects, layers, strict=True):
        if len(layer) != len(found):
            raise DataSetError(
                f"sequence '{name}': {len(found)} images and {len(layer)} annotations in {folder}: "
                "the data set is not fully unpacked"
            )

    def mask(index: int) -> np.ndarray:
        return np.any([_bright(read_raw(layer[index])) for layer in layers], axis=0)

    return RecordedVideo(name, tuple(found), evenly(len(found), RATE), mask=mask)


def _bright(values: np.ndarray) -> np.ndarray:
    """(H, W) bool: annotations are 0 and 255, at times through a lossy codec."""
    return values > 127 if values.ndim == 2 else (values[..., :3] > 127).any(axis=-1)


def find_fbms(root: Path) -> list[RecordedVideo]:
    """The sequences of the test set and the training set, or of those that are there. Raises DataSetError."""
    if not root.is_dir():
        raise DataSetError(f"there is no folder {root}: give the folder that holds Testset or Trainingset")
    parts = [root / part for part in FBMS_PARTS if (root / part).is_dir()]
    if not parts:
        needed_folder(root, "Testset", "the folder that holds Testset or Trainingset")
    folders = [path for part in parts for path in sorted(part.iterdir()) if path.is_dir()]
    if not folders:
        raise DataSetError(f"{parts[0]} is empty: unpack the data set again")
    return [_fbms(folder) for folder in folders]


def _fbms(folder: Path) -> RecordedVideo:
    name, found = folder.name, pictures(folder, folder.name)
    truth = folder / "GroundTruth"
    if not truth.is_dir():
        raise DataSetError(f"sequence '{name}': {truth} is missing: the data set is not fully unpacked")
    numbered = {_number(path): index for index, path in enumerate(found)}
    known: dict[int, Path] = {}
    for path in _annotations(truth):
        index = numbered.get(_number(path))
        if index is not None:
            known.setdefault(index, path)
    if not known:
        raise DataSetError(f"sequence '{name}': no annotation in {truth} belongs to one of its {len(found)} images")

    def mask(index: int) -> np.ndarray | None:
        return _not_background(read_raw(known[index])) if index in known else None

    return RecordedVideo(name, tuple(found), evenly(len(found), RATE), mask=mask)


def _annotations(folder: Path) -> list[Path]:
    """Images by name; where the same one is there in several formats, the first of ANNOTATIONS."""
    best: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        suffix = path.suffix.lower()
        if suffix in ANNOTATIONS:
            other = best.get(path.stem)
            if other is None or ANNOTATIONS.index(suffix) < ANNOTATIONS.index(other.suffix.lower()):
                best[path.stem] = path
    return list(best.values())


def _number(path: Path) -> int:
    """The last number in a name: camel01_0020_gt.png -> 20; -1: there is none."""
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else -1


def _not_background(values: np.ndarray) -> np.ndarray:
    """(H, W) bool of an annotation, see the module."""
    codes = values.astype(np.int64) if values.ndim == 2 else values[..., :3].astype(np.int64) @ (1, 256, 65536)
    if (codes == 0).any():
        return codes != 0
    border = np.concatenate([codes[0], codes[-1], codes[:, 0], codes[:, -1]])
    colours, counts = np.unique(border, return_counts=True)
    return codes != colours[counts.argmax()]
