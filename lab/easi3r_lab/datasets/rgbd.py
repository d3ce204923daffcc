"""TUM RGB-D and Bonn RGB-D Dynamic: one layout.

    ROOT/NAME/rgb.txt, depth.txt (stamp file), groundtruth.txt (stamp tx ty tz qx qy qz qw), rgb/*.png, depth/*.png

Depth is in 1/5000 m, 0: not known. Images, depth and poses have stamps of their own; each image gets the nearest of the
others within MAX_GAP, and one without a pose counts for masks and depth alone. The poses of Bonn are those of the
markers on the camera, not of its lens; trajectories are compared as they are there, as others do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from easi3r_lab.datasets.recorded import (
    DataSetError,
    RecordedVideo,
    intrinsics,
    needed_file,
    numbers,
    poses_from_quaternions,
    read_raw,
)

PER_METRE = 5000.0
MAX_GAP = 0.02  # seconds
TUM_CAMERAS = {  # of the calibrations that come with the data; freiburg3 is undistorted
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
BONN_CAMERA = (542.822841, 542.576870, 315.593520, 237.756098)
DYNAMIC = ("sitting", "walking", "desk_with_person")  # what in TUM's names says that something moves


def find_tum(root: Path) -> list[RecordedVideo]:
    """The sequences with movers; where none of them is there, all. Raises DataSetError."""
    folders = _folders(root, "rgbd_dataset_freiburg3_walking_xyz and others")
    moving = [folder for folder in folders if any(word in folder.name for word in DYNAMIC)]
    return [_video(folder, _tum_camera(folder.name)) for folder in moving or folders]


def find_bonn(root: Path) -> list[RecordedVideo]:
    """Raises DataSetError."""
    return [_video(folder, BONN_CAMERA) for folder in _folders(root, "rgbd_bonn_balloon and others")]


def _tum_camera(name: str) -> tuple[float, ...]:
    found = [camera for key, camera in TUM_CAMERAS.items() if key in name]
    if not found:
        raise DataSetError(f"sequence '{name}': its name does not say which of {', '.join(TUM_CAMERAS)} it is from")
    return found[0]


def _folders(root: Path, what: str) -> list[Path]:
    """Every folder with a rgb.txt, ROOT itself or inside of it."""
    if not root.is_dir():
        raise DataSetError(f"there is no folder {root}: give the folder that holds {what}")
    found = [folder for folder in (root, *sorted(root.iterdir())) if (folder / "rgb.txt").is_file()]
    if not found:
        archives = [path.name for path in sorted(root.iterdir()) if path.suffix in (".tgz", ".zip", ".gz")]
        hint = f": unpack {archives[0]} first" if archives else f": give the folder that holds {what}"
        raise DataSetError(f"no folder in {root} holds a rgb.txt{hint}")
    return found


def _video(folder: Path, camera: tuple[float, ...]) -> RecordedVideo:
    name = folder.name
    stamps, files = _listed(folder, "rgb.txt", name)
    depth_stamps, depth_files = _listed(folder, "depth.txt", name)
    rows = numbers(needed_file(folder / "groundtruth.txt", name), 8)
    for file in (*files, *depth_files):
        needed_file(file, name)
    poses = poses_from_quaternions(rows[:, 1:])
    nearest, close = _nearest(stamps, rows[:, 0])
    world_from_cam = np.where(close[:, None, None], poses[nearest], np.nan)
    at, near = _nearest(stamps, depth_stamps)

    def depth(index: int) -> np.ndarray | None:
        if not near[index]:
            return None
        values = read_raw(depth_files[at[index]]).astype(np.float32) / PER_METRE
        return np.where(values > 0, values, np.nan)

    return RecordedVideo(
        name,
        tuple(files),
        tuple(round(float(stamp) * 1e9) for stamp in stamps),
        intrinsics(*camera),
        world_from_cam,
        depth,
        has_depth=True,
    )


def _listed(folder: Path, name: str, sequence: str) -> tuple[np.ndarray, list[Path]]:
    """Stamps, seconds, and files, in order of time."""
    path = needed_file(folder / name, sequence)
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if not lines or any(len(line) < 2 for line in lines):
        raise DataSetError(f"{path} does not list stamps and files: unpack the data set again")
    pairs = sorted((float(line[0]), line[1]) for line in lines)
    return np.array([stamp for stamp, _ in pairs]), [folder / file for _, file in pairs]


def _nearest(stamps: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest of `others` (sorted) for each stamp, and whether it is near enough."""
    after = np.clip(np.searchsorted(others, stamps), 1, max(len(others) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(others) - 1)
    index = np.where(stamps - others[before] <= others[after] - stamps, before, after)
    return index, np.abs(others[index] - stamps) <= MAX_GAP
