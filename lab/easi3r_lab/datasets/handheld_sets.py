"""DyCheck (iPhone) and Aria Digital Twin: a hand, and a head.

    dycheck/NAME/rgb/1x/0_00000.png, camera/0_00000.json, depth/1x/0_00000.npy
    adt/*.npz as TAPVid-3D distributes it: images_jpeg_bytes (T,), fx_fy_cx_cy (4,), extrinsics_w2c (T, 4, 4)

DyCheck: camera 0 is the one that moves, others stand and are left out. A camera is that of Nerfies: `orientation` turns
world axes into camera axes, `position` is in the world. Depth is the phone's laser, 0: not known. Its frames have no
times, RATE is assumed.

Not sure: ADT itself comes as VRS files, which need Meta's own tools. The paper names TAPVid-3D beside it, so its .npz
files (undistorted, already cut into clips) are what is read here; where they have no extrinsics, as in its early
releases, the message says so. They hold no depth maps.
"""

from __future__ import annotations

import json
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
    pictures,
)

RATE = 30.0


def find_dycheck(root: Path) -> list[RecordedVideo]:
    """Raises DataSetError."""
    if not root.is_dir():
        raise DataSetError(f"there is no folder {root}: give the folder that holds apple, paper-windmill and others")
    folders = [path for path in sorted(root.iterdir()) if (path / "rgb").is_dir()]
    if not folders:
        inner = [path for path in sorted(root.iterdir()) if path.is_dir() and any(path.glob("*/rgb"))]
        hint = f"; did you mean {inner[0]}?" if inner else ": give the folder that holds apple and others"
        raise DataSetError(f"no folder in {root} holds 'rgb'{hint}")
    return [_dycheck(folder) for folder in folders]


def _dycheck(folder: Path) -> RecordedVideo:
    name = folder.name
    images = [path for path in pictures(needed_folder(folder / "rgb", "1x", "a scene"), name) if path.stem[:2] == "0_"]
    if not images:
        raise DataSetError(f"sequence '{name}': {folder / 'rgb/1x'} has no image 0_*: the moving camera is missing")
    read = [read_dycheck_camera(needed_file(folder / "camera" / f"{path.stem}.json", name)) for path in images]
    depths = [folder / "depth/1x" / f"{path.stem}.npy" for path in images]
    there = [path.is_file() for path in depths]
    if any(there):
        matched(name, {"images": len(images), "depth maps": sum(there)})

    def depth(index: int) -> np.ndarray | None:
        values = np.load(depths[index]).squeeze().astype(np.float32)
        return np.where(values > 0, values, np.nan)

    return RecordedVideo(
        name,
        tuple(images),
        evenly(len(images), RATE),
        read[0][0],
        np.stack([world_from_cam for _, world_from_cam in read]),
        depth if any(there) else (lambda index: None),
        has_depth=any(there),
    )


def read_dycheck_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) and world_from_cam (4, 4). Raises DataSetError."""
    try:
        values = json.loads(path.read_text())
        cam_from_world = np.array(values["orientation"], np.float64).reshape(3, 3)
        focal, (cx, cy) = float(values["focal_length"]), values["principal_point"]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = cam_from_world.T, np.array(values["position"], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise DataSetError(f"{path} is no camera of DyCheck ({error}): unpack the data set again") from None
    return intrinsics(focal, focal * float(values.get("pixel_aspect_ratio", 1.0)), cx, cy), pose


def find_adt(root: Path) -> list[RecordedVideo]:
    """Raises DataSetError."""
    if not root.is_dir():
        raise DataSetError(f"there is no folder {root}: give the folder that holds TAPVid-3D's .npz files of adt")
    files = sorted(root.glob("*.npz"))
    if not files:
        vrs = next(root.rglob("*.vrs"), None)
        hint = f"; {vrs} is ADT's own format, which is not read: take the clips of TAPVid-3D" if vrs else ""
        raise DataSetError(f"no .npz file in {root}{hint}")
    return [_adt(path) for path in files]


def _adt(path: Path) -> RecordedVideo:
    try:
        with np.load(path, allow_pickle=False) as data:
            missing = {"images_jpeg_bytes", "fx_fy_cx_cy", "extrinsics_w2c"} - set(data.files)
            if missing:
                raise DataSetError(f"{path} has no {', '.join(sorted(missing))}: take the current release of TAPVid-3D")
            images = tuple(bytes(item) for item in data["images_jpeg_bytes"])
            K, cam_from_world = intrinsics(*data["fx_fy_cx_cy"]), data["extrinsics_w2c"].astype(np.float64)
    except DataSetError:
        raise
    except Exception as error:  # a broken archive fails in many ways
        raise DataSetError(f"{path} cannot be read ({error}): download it again") from None
    matched(path.stem, {"images": len(images), "poses": len(cam_from_world)})
    return RecordedVideo(path.stem, images, evenly(len(images), RATE), K, np.linalg.inv(cam_from_world))
