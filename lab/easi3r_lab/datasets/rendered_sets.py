"""MPI Sintel and TartanAir: rendered films and flights, with exact depth and poses.

    MPI-Sintel/training/final/NAME/frame_0001.png, training/depth/NAME/frame_0001.dpt, training/camdata_left/NAME/*.cam
    TartanAir/SCENE/Easy/P001/image_left/000000_left.png, depth_left/000000_left_depth.npy, pose_left.txt

Sintel comes as two archives, of images and of depth with cameras, that are unpacked into one folder; frames are of a
film of 24 Hz. TartanAir's poses are in its own axes (x forward, y right, z down), which are turned into optical ones
here; its frames have no times, RATE is assumed. The archives of TartanAir repeat the scene's name (SCENE/SCENE/Easy):
both are read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from easi3r_lab.datasets.recorded import (
    DataSetError,
    RecordedVideo,
    evenly,
    intrinsics,
    matched,
    needed_file,
    needed_folder,
    numbers,
    pictures,
    poses_from_quaternions,
)

TAG = 202021.25  # starts Sintel's binary files
SINTEL_RATE = 24.0
RATE = 10.0  # Hz, of TartanAir
TARTANAIR_CAMERA = (320.0, 320.0, 320.0, 240.0)
# Columns: the optical axes (right, down, forward) in TartanAir's (forward, right, down).
TARTANAIR_FROM_OPTICAL = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], np.float64)


def find_sintel(root: Path) -> list[RecordedVideo]:
    """The training sequences, pass `final`. Raises DataSetError."""
    training = needed_folder(root, "training", "the folder that holds 'training'")
    images = needed_folder(training, "final", "the folder that holds 'training' with the images unpacked into it")
    for part in ("depth", "camdata_left"):
        if not (training / part).is_dir():
            raise DataSetError(f"{training / part} is missing: unpack Sintel's archive of depth and cameras there, too")
    names = sorted(path.name for path in images.iterdir() if path.is_dir())
    if not names:
        raise DataSetError(f"{images} is empty: unpack the data set again")
    return [_sintel(training, name) for name in names]


def _sintel(training: Path, name: str) -> RecordedVideo:
    images = pictures(training / "final" / name, name)
    cameras = sorted((training / "camdata_left" / name).glob("*.cam"))
    depths = sorted((training / "depth" / name).glob("*.dpt"))
    matched(name, {"images": len(images), "cameras": len(cameras), "depth maps": len(depths)})
    read = [read_sintel_camera(path) for path in cameras]
    return RecordedVideo(
        name,
        tuple(images),
        evenly(len(images), SINTEL_RATE),
        read[0][0],
        np.stack([np.linalg.inv(cam_from_world) for _, cam_from_world in read]),
        lambda index: read_sintel_depth(depths[index]),
        has_depth=True,
    )


def read_sintel_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) and cam_from_world (4, 4). Raises DataSetError."""
    data = _tagged(path)
    if len(data) != 21 * 8:
        raise DataSetError(f"{path} is no camera of Sintel: unpack the data set again")
    values = np.frombuffer(data, "<f8")
    return values[:9].reshape(3, 3), np.vstack([values[9:].reshape(3, 4), [0, 0, 0, 1]])


def read_sintel_depth(path: Path) -> np.ndarray:
    """(H, W) float32. Raises DataSetError."""
    data = _tagged(path)
    width, height = np.frombuffer(data[:8], "<i4") if len(data) >= 8 else (0, 0)
    if len(data) != 8 + 4 * width * height or not data[8:]:
        raise DataSetError(f"{path} is no depth map of Sintel: unpack the data set again")
    return np.frombuffer(data[8:], "<f4").reshape(height, width)


def _tagged(path: Path) -> bytes:
    data = path.read_bytes()
    if len(data) < 4 or np.frombuffer(data[:4], "<f4")[0] != np.float32(TAG):
        raise DataSetError(f"{path} does not start as Sintel's files do: unpack the data set again")
    return data[4:]


def find_tartanair(root: Path) -> list[RecordedVideo]:
    """Every flight (left camera), by scene and difficulty. Raises DataSetError."""
    if not root.is_dir():
        raise DataSetError(f"there is no folder {root}: give the folder that holds the scenes of TartanAir")
    flights = sorted(path.parent for path in root.rglob("pose_left.txt"))
    if not flights:
        raise DataSetError(f"no pose_left.txt anywhere in {root}: unpack the archives of a scene there")
    return [_tartanair(folder, _flight_name(folder, root)) for folder in flights]


def _flight_name(folder: Path, root: Path) -> str:
    """SCENE/Easy/P001, without what the archives repeat."""
    parts = folder.relative_to(root).parts or (folder.name,)
    return "/".join(part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1])


def _tartanair(folder: Path, name: str) -> RecordedVideo:
    images = pictures(folder / "image_left", name)
    poses = poses_from_quaternions(numbers(needed_file(folder / "pose_left.txt", name), 7))
    depths = sorted((folder / "depth_left").glob("*.npy")) if (folder / "depth_left").is_dir() else []
    parts = {"images": len(images), "poses": len(poses)}
    matched(name, parts | ({"depth maps": len(depths)} if depths else {}))
    return RecordedVideo(
        name,
        tuple(images),
        evenly(len(images), RATE),
        intrinsics(*TARTANAIR_CAMERA),
        poses @ TARTANAIR_FROM_OPTICAL,
        (lambda index: np.load(depths[index])) if depths else (lambda index: None),
        has_depth=bool(depths),
    )
