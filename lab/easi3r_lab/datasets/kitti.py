"""KITTI odometry.

    dataset/sequences/00/image_2/000000.png (or the grey image_0), calib.txt, times.txt, velodyne/000000.bin
    dataset/poses/00.txt: poses of camera 0, for sequences 00 to 10

Depth is what the laser saw, projected into the image (it was not seen from the camera's own place, so a few points
shine through). Without `velodyne` there is none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from easi3r_lab.datasets.recorded import (
    DataSetError,
    RecordedVideo,
    matched,
    needed_file,
    needed_folder,
    numbers,
    pictures,
    read_raw,
)

CAMERAS = ("image_2", "image_0")  # colour where it is there


def find_kitti(root: Path) -> list[RecordedVideo]:
    """The sequences with known poses. Raises DataSetError."""
    what = "the folder 'dataset', that holds 'sequences' and 'poses'"
    sequences, poses = needed_folder(root, "sequences", what), needed_folder(root, "poses", what)
    known = [path for path in sorted(sequences.iterdir()) if (poses / f"{path.name}.txt").is_file()]
    if not known:
        raise DataSetError(f"no sequence in {sequences} has its poses in {poses}")
    return [_video(folder, poses / f"{folder.name}.txt") for folder in known]


def _video(folder: Path, poses: Path) -> RecordedVideo:
    name = folder.name
    camera = next((camera for camera in CAMERAS if (folder / camera).is_dir()), None)
    if camera is None:
        raise DataSetError(f"sequence '{name}': {folder / CAMERAS[0]} is missing: the data set is not fully unpacked")
    images = pictures(folder / camera, name)
    calibration = read_calibration(needed_file(folder / "calib.txt", name))
    times = numbers(needed_file(folder / "times.txt", name), 1)[:, 0]
    world_from_cam0 = _poses(poses)
    matched(name, {"images": len(images), "times": len(times), "poses": len(world_from_cam0)})
    projection = _needed(calibration, f"P{camera[-1]}", folder)
    K = projection[:, :3]
    cam0_from_cam = np.eye(4)
    cam0_from_cam[:3, 3] = -np.linalg.solve(K, projection[:, 3])  # rectified: the cameras only stand side by side
    clouds = sorted((folder / "velodyne").glob("*.bin")) if (folder / "velodyne").is_dir() else []
    if clouds:
        matched(name, {"images": len(images), "clouds": len(clouds)})
        cam0_from_laser = np.vstack([_needed(calibration, "Tr", folder), [0, 0, 0, 1]])
        cam_from_laser = np.linalg.inv(cam0_from_cam) @ cam0_from_laser
        shape = read_raw(images[0]).shape[:2]

    def depth(index: int) -> np.ndarray | None:
        return laser_depth(clouds[index], cam_from_laser, K, shape) if clouds else None

    return RecordedVideo(
        name,
        tuple(images),
        tuple(round(float(time) * 1e9) for time in times),
        K,
        world_from_cam0 @ cam0_from_cam,
        depth,
        has_depth=bool(clouds),
    )


def _poses(path: Path) -> np.ndarray:
    rows = numbers(path, 12).reshape(-1, 3, 4)
    return np.concatenate([rows, np.tile([[[0, 0, 0, 1.0]]], (len(rows), 1, 1))], axis=1)


def read_calibration(path: Path) -> dict[str, np.ndarray]:
    """(3, 4) matrices by name: P0 ... P3, Tr. Raises DataSetError."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, values = line.partition(":")
        try:
            found[name.strip()] = np.array(values.split(), np.float64).reshape(3, 4)
        except ValueError:
            continue
    if not found:
        raise DataSetError(f"{path} holds no matrices: unpack the data set again")
    return found


def _needed(calibration: dict[str, np.ndarray], name: str, folder: Path) -> np.ndarray:
    if name not in calibration:
        raise DataSetError(f"{folder / 'calib.txt'} has no line '{name}': unpack the archive of calibrations again")
    return calibration[name]


def laser_depth(path: Path, cam_from_laser: np.ndarray, K: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) float32, the nearest point of each pixel; NaN: none."""
    data = np.fromfile(path, np.float32)
    if data.size % 4:
        raise DataSetError(f"{path} is no cloud of KITTI: unpack the data set again")
    xyz = data.reshape(-1, 4)[:, :3] @ cam_from_laser[:3, :3].T + cam_from_laser[:3, 3]
    xyz = xyz[xyz[:, 2] > 0.1]
    pixels = np.rint((xyz @ K.T)[:, :2] / xyz[:, 2:]).astype(int)
    height, width = shape
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    depth = np.full(shape, np.inf, np.float32)
    np.minimum.at(depth, (pixels[inside, 1], pixels[inside, 0]), xyz[inside, 2].astype(np.float32))
    return np.where(np.isfinite(depth), depth, np.nan)
