"""What every reader gives: a video whose camera, depth or masks are known. And the words for what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ros.core.types import Frame

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm")


class DataSetError(ValueError):
    """A folder is not what a data set looks like; the message says what is missing and where it was looked for."""


def no_truth(index: int) -> None:
    """Where a data set has no depth, or no masks."""


@dataclass(frozen=True)
class RecordedVideo:
    """Frames in order of time with what is known about them; index is that of `images`."""

    name: str
    images: tuple[Path | bytes, ...]  # files, or encoded pictures
    stamps_ns: tuple[int, ...]
    K: np.ndarray | None = None  # (3, 3), pixels of the images
    world_from_cam: np.ndarray | None = None  # (T, 4, 4), optical frame, metres; NaN where it is not known
    depth: Callable[[int], np.ndarray | None] = no_truth  # index -> (H, W) metres; NaN, inf or <= 0: not known
    mask: Callable[[int], np.ndarray | None] = no_truth  # index -> (H, W) bool, True on movers; None: not annotated
    has_depth: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def frames(self, with_K: bool = True) -> Iterator[Frame]:
        """with_K: whether the pipeline is told the intrinsics."""
        for index, (image, stamp) in enumerate(zip(self.images, self.stamps_ns, strict=True)):
            yield Frame(index, stamp, "camera", read_image(image), self.K if with_K else None)

    def thinned(self, every: int, count: int | None = None) -> RecordedVideo:
        """Every n-th frame, and at most `count` of those."""
        kept = list(range(0, len(self), every))[:count]
        poses = None if self.world_from_cam is None else self.world_from_cam[kept]
        return replace(
            self,
            images=tuple(self.images[i] for i in kept),
            stamps_ns=tuple(self.stamps_ns[i] for i in kept),
            world_from_cam=poses,
            depth=lambda index: self.depth(kept[index]),
            mask=lambda index: self.mask(kept[index]),
        )


def needed_folder(root: Path, name: str, what: str) -> Path:
    """ROOT/NAME. Raises DataSetError; what: which folder the user should give."""
    if not root.is_dir():
        raise DataSetError(f"there is no folder {root}: give {what}")
    folder = root / name
    if folder.is_dir():
        return folder
    inner = [path for path in sorted(root.iterdir()) if (path / name).is_dir()]
    raise DataSetError(f"{folder} is missing" + (f"; did you mean {inner[0]}?" if inner else f": give {what}"))


def needed_file(path: Path, name: str) -> Path:
    """path, if it is a file. name: of the sequence. Raises DataSetError."""
    if not path.is_file():
        raise DataSetError(f"sequence '{name}': {path} is missing: the data set is not fully unpacked")
    return path


def pictures(folder: Path, name: str) -> list[Path]:
    """By name. Raises DataSetError if there are none."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES) if folder.is_dir() else []
    if not found:
        raise DataSetError(f"sequence '{name}': no images in {folder}: the data set is not fully unpacked")
    return found


def matched(name: str, parts: dict[str, int]) -> None:
    """Raises DataSetError unless there are as many of each part."""
    if len(set(parts.values())) > 1:
        told = ", ".join(f"{count} {part}" for part, count in parts.items())
        raise DataSetError(f"sequence '{name}' has {told}: the data set is not fully unpacked")


def numbers(path: Path, columns: int) -> np.ndarray:
    """(N, columns) float64 of a text file with # comments. Raises DataSetError if it holds anything else."""
    try:
        rows = np.loadtxt(path, comments="#", ndmin=2)
    except ValueError as error:
        raise DataSetError(f"{path} cannot be read ({error}): unpack the data set again") from None
    if rows.shape[1:] != (columns,) or not len(rows):
        raise DataSetError(f"{path} has no rows of {columns} numbers: unpack the data set again")
    return rows


def read_image(image: Path | bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises DataSetError."""
    data = image if isinstance(image, bytes) else image.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if pixels is None:
        where = "a picture" if isinstance(image, bytes) else image
        raise DataSetError(f"{where} is no image that can be read: unpack the data set again")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def read_raw(path: Path) -> np.ndarray:
    """An image with its values as they are: 16 bits, palettes. Raises DataSetError."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise DataSetError(f"{path} is no image that can be read: unpack the data set again")
    return values


def intrinsics(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def poses_from_quaternions(rows: np.ndarray) -> np.ndarray:
    """(N, 7) tx ty tz qx qy qz qw -> (N, 4, 4)."""
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(rows[:, 3:]).as_matrix()
    poses[:, :3, 3] = rows[:, :3]
    return poses


def evenly(count: int, rate: float) -> tuple[int, ...]:
    """Stamps of a video whose frames carry none, in nanoseconds."""
    return tuple(round(index / rate * 1e9) for index in range(count))
