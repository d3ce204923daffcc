"""A small rendered clip, written in the layouts in which public data sets are distributed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
from easi3r_lab.datasets.rendered_sets import TAG, TARTANAIR_FROM_OPTICAL
from easi3r_lab.eval.synthetic_clips import ClipSpec, render
from scipy.spatial.transform import Rotation

START = 1_305_031_453.25  # seconds
PERIOD = 1 / 30
BASELINE = 0.06  # metres, of KITTI's second camera to the right


def clip(frames: int = 12, preset: str = "static"):
    return render(ClipSpec(preset, 5, frames, (160, 120)))


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def finite(depth: np.ndarray) -> np.ndarray:
    """The sky is 0, as sensors have it."""
    return np.where(np.isfinite(depth), depth, 0)


def line(pose: np.ndarray) -> str:
    values = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
    return " ".join(f"{value:.9f}" for value in values)


def write_rgbd(root: Path, frames, name: str) -> Path:
    folder, lists = root / name, {"rgb": ["# color images"], "depth": ["# depth maps"]}
    truth = ["# timestamp tx ty tz qx qy qz qw"]
    for frame in frames:
        stamp = START + frame.index * PERIOD
        write_image(folder / f"rgb/{stamp:.6f}.png", frame.image)
        (folder / "depth").mkdir(exist_ok=True)
        depth = np.round(finite(frame.depth) * 5000).clip(0, 65535).astype(np.uint16)
        cv2.imwrite(str(folder / f"depth/{stamp + 0.004:.6f}.png"), depth)
        lists["rgb"].append(f"{stamp:.6f} rgb/{stamp:.6f}.png")
        lists["depth"].append(f"{stamp + 0.004:.6f} depth/{stamp + 0.004:.6f}.png")
        truth.append(f"{stamp - 0.003:.4f} {line(frame.view.world_from_cam)}")
    for part, lines in lists.items():
        (folder / f"{part}.txt").write_text("\n".join(lines))
    (folder / "groundtruth.txt").write_text("\n".join(truth))
    return folder


def write_tum(root: Path, frames) -> None:
    write_rgbd(root, frames, "rgbd_dataset_freiburg3_walking_xyz")


def write_bonn(root: Path, frames) -> None:
    write_rgbd(root, frames, "rgbd_bonn_balloon")


def write_sintel(root: Path, frames) -> None:
    training = root / "training"
    for part in ("depth", "camdata_left"):
        (training / part / "alley_1").mkdir(parents=True)
    for frame in frames:
        stem = f"frame_{frame.index + 1:04d}"
        write_image(training / f"final/alley_1/{stem}.png", frame.image)
        tag = np.float32(TAG).tobytes()
        height, width = frame.depth.shape
        head = tag + np.array([width, height], "<i4").tobytes()
        (training / f"depth/alley_1/{stem}.dpt").write_bytes(head + finite(frame.depth).astype("<f4").tobytes())
        cam_from_world = np.linalg.inv(frame.view.world_from_cam)[:3]
        camera = tag + frame.view.K.astype("<f8").tobytes() + cam_from_world.astype("<f8").tobytes()
        (training / f"camdata_left/alley_1/{stem}.cam").write_bytes(camera)


def write_kitti(root: Path, frames) -> None:
    folder = root / "sequences/07"
    (folder / "velodyne").mkdir(parents=True)
    (root / "poses").mkdir()
    K, rows = frames[0].view.K, []
    projection = np.hstack([K, K @ [[-BASELINE], [0], [0]]])
    laser_axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])  # x forward, y left, z up -> optical
    cam_from_cam0 = np.eye(4)
    cam_from_cam0[0, 3] = -BASELINE
    for frame in frames:
        write_image(folder / f"image_2/{frame.index:06d}.png", frame.image)
        rows.append(" ".join(f"{v:.9e}" for v in (frame.view.world_from_cam @ cam_from_cam0)[:3].ravel()))
        v, u = np.nonzero(np.isfinite(frame.depth))
        depth = frame.depth[v, u]
        xyz = np.stack([u, v, np.ones_like(u)], 1) @ np.linalg.inv(K).T * depth[:, None] + [BASELINE, 0, 0]
        cloud = np.hstack([xyz @ laser_axes, np.zeros((len(xyz), 1))])
        cloud.astype(np.float32).tofile(folder / f"velodyne/{frame.index:06d}.bin")
    (root / "poses/07.txt").write_text("\n".join(rows))
    (folder / "times.txt").write_text("\n".join(f"{frame.index * 0.1:.6e}" for frame in frames))
    matrices = {
        "P0": np.hstack([K, np.zeros((3, 1))]),
        "P2": projection,
        "Tr": np.hstack([laser_axes, np.zeros((3, 1))]),
    }
    text = [f"{name}: " + " ".join(f"{v:.12e}" for v in matrix.ravel()) for name, matrix in matrices.items()]
    (folder / "calib.txt").write_text("\n".join(text))


def write_tartanair(root: Path, frames) -> None:
    folder = root / "office/office/Easy/P001"
    (folder / "depth_left").mkdir(parents=True)
    optical_from_theirs = np.linalg.inv(TARTANAIR_FROM_OPTICAL)
    for frame in frames:
        write_image(folder / f"image_left/{frame.index:06d}_left.png", frame.image)
        np.save(folder / f"depth_left/{frame.index:06d}_left_depth.npy", finite(frame.depth))
    poses = (line(frame.view.world_from_cam @ optical_from_theirs) for frame in frames)
    (folder / "pose_left.txt").write_text("\n".join(poses))


def write_dycheck(root: Path, frames) -> None:
    folder = root / "apple"
    for part in ("camera", "depth/1x"):
        (folder / part).mkdir(parents=True)
    for frame in frames:
        stem, pose, K = f"0_{frame.index:05d}", frame.view.world_from_cam, frame.view.K
        write_image(folder / f"rgb/1x/{stem}.png", frame.image)
        np.save(folder / f"depth/1x/{stem}.npy", finite(frame.depth)[..., None])
        camera = {
            "orientation": pose[:3, :3].T.tolist(),
            "position": pose[:3, 3].tolist(),
            "focal_length": K[0, 0],
            "pixel_aspect_ratio": K[1, 1] / K[0, 0],
            "principal_point": K[:2, 2].tolist(),
        }
        (folder / f"camera/{stem}.json").write_text(json.dumps(camera))
    write_image(folder / "rgb/1x/1_00000.png", frames[0].image)  # of a camera that stands


def write_adt(root: Path, frames) -> None:
    root.mkdir(parents=True, exist_ok=True)
    pictures = [cv2.imencode(".jpg", cv2.cvtColor(f.image, cv2.COLOR_RGB2BGR))[1].tobytes() for f in frames]
    K = frames[0].view.K
    extrinsics = np.stack([np.linalg.inv(frame.view.world_from_cam) for frame in frames])
    buffer = io.BytesIO()
    np.savez(
        buffer,
        images_jpeg_bytes=np.array(pictures),
        fx_fy_cx_cy=np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]]),
        extrinsics_w2c=extrinsics,
    )
    (root / "Apartment_seq100_0.npz").write_bytes(buffer.getvalue())


def write_segtrack(root: Path, frames) -> None:
    """Two objects in folders of their own, where the clip has so many."""
    for frame in frames:
        write_image(root / f"JPEGImages/walk/{frame.index:05d}.png", frame.image)
        for number in (1, 2):
            path = root / f"GroundTruth/walk/{number}/{frame.index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            inside = (frame.instances == number) if number == 1 else (frame.instances >= number)
            cv2.imwrite(str(path), inside.astype(np.uint8) * 255)


def write_fbms(root: Path, frames, background: int = 0) -> None:
    """Annotated in every fourth frame. background: a grey, on which movers are coloured."""
    folder = root / "Testset/walk"
    (folder / "GroundTruth").mkdir(parents=True)
    for frame in frames:
        write_image(folder / f"walk_{frame.index + 1:04d}.jpg", frame.image)
        if frame.index % 4 == 0:
            truth = np.where(frame.mask[..., None], (90, 40, 200), background).astype(np.uint8)
            cv2.imwrite(str(folder / f"GroundTruth/walk_{frame.index + 1:04d}_gt.png"), truth)
    (folder / "walkDef.dat").write_text("Class definition")
