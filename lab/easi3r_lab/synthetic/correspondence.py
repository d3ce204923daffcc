"""Where surface points of one view are in another: exact, from depth, part numbers and poses.

First for batches of scenes, in torch; then for two views of a clip, in NumPy, with optical flow and what is hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from easi3r_lab.synthetic.first_hits import Grid, slopes
from easi3r_lab.synthetic.scene import SceneView
from easi3r_ros.core.geometry import invert_se3

_NEAR = 1e-3  # metres; nearer points have no place in the image


def carried(
    world_from_cam_i: Tensor, world_from_cam_j: Tensor, world_from_part_i: Tensor, world_from_part_j: Tensor
) -> Tensor:
    """(B, P, 4, 4) cam_j_from_cam_i of points that move along with each part. Cameras (B, 4, 4), parts (B, P, 4, 4)."""
    moved = world_from_part_j @ invert_se3(world_from_part_i)
    return invert_se3(world_from_cam_j)[:, None] @ moved @ world_from_cam_i[:, None]


def carried_still(world_from_cam_i: Tensor, world_from_cam_j: Tensor) -> Tensor:
    """(B, 1, 4, 4) cam_j_from_cam_i of points that stand still in the world."""
    return (invert_se3(world_from_cam_j) @ world_from_cam_i)[:, None]


def points_carried(depth: Tensor, parts: Tensor, K: Tensor, cam_j_from_cam_i: Tensor) -> Tensor:
    """(B, H, W, 3) points seen by cameras i, in the frames of cameras j; non-finite where depth is.

    depth, parts: (B, H, W); K: (B, 3, 3); cam_j_from_cam_i: (B, P, 4, 4) of each part, or (B, 1, 4, 4) of all.
    """
    B, H, W = depth.shape
    x, y = slopes(K.to(depth.dtype), Grid(W, H))
    points = torch.stack([x[:, None] * depth, y[:, :, None] * depth, depth], dim=-1)
    count = cam_j_from_cam_i.shape[1]
    if count == 1:
        pose = cam_j_from_cam_i[:, 0].to(depth.dtype)
        return torch.einsum("bij,bhwj->bhwi", pose[:, :3, :3], points) + pose[:, None, None, :3, 3]
    row = parts.long().clamp_min(0) + count * torch.arange(B, device=depth.device)[:, None, None]
    pose = cam_j_from_cam_i.to(depth.dtype)[..., :3, :].reshape(-1, 12).index_select(0, row.flatten())
    pose = pose.view(B, H, W, 3, 4)
    return (pose[..., :3] * points[..., None, :]).sum(-1) + pose[..., 3]


def projected(points: Tensor, K: Tensor) -> Tensor:
    """(B, H, W, 2) pixels (u, v) of points (B, H, W, 3) in camera frames; NaN behind the camera. K: (B, 3, 3)."""
    z = points[..., 2:]
    K = K.to(points.dtype)
    uv = points[..., :2] / z * K[:, None, None, [0, 1], [0, 1]] + K[:, None, None, :2, 2]
    return torch.where(z > _NEAR, uv, torch.nan)


def visible(points: Tensor, uv: Tensor, parts: Tensor, depth_j: Tensor, parts_j: Tensor, tolerance: float) -> Tensor:
    """(B, H, W) bool: the points are inside image j, whose nearest pixel sees the same part at the same depth.

    points, uv: of the points in camera j; parts: (B, H, W) which they are on; depth_j, parts_j: (B, H, W) what j sees;
    tolerance: relative difference of depth. On slanted surfaces depth may lie anywhere between the four pixels around.
    """
    B, H, W = depth_j.shape
    inside = (uv > -0.5).all(-1) & (uv[..., 0] < W - 0.5) & (uv[..., 1] < H - 0.5) & (parts >= 0)
    corner = torch.where(inside[..., None], uv, 0.0).floor().long()
    first = (torch.arange(B, device=uv.device) * (H * W))[:, None, None]
    nearest = torch.full_like(depth_j, torch.inf)
    farthest = torch.zeros_like(depth_j)
    for dx in (0, 1):
        for dy in (0, 1):
            u, v = (corner[..., 0] + dx).clamp(0, W - 1), (corner[..., 1] + dy).clamp(0, H - 1)
            row = (first + v * W + u).flatten()
            same = parts_j.flatten()[row].view_as(parts) == parts
            seen = depth_j.flatten()[row].view_as(depth_j)
            nearest = torch.where(same, torch.minimum(nearest, seen), nearest)
            farthest = torch.where(same, torch.maximum(farthest, seen), farthest)
    z = points[..., 2]
    u, v = torch.where(inside[..., None], uv, 0.0).round().long().unbind(-1)
    same = parts_j.flatten()[(first + v.clamp(0, H - 1) * W + u.clamp(0, W - 1)).flatten()].view_as(parts) == parts
    return inside & same & (z >= nearest * (1 - tolerance)) & (z <= farthest * (1 + tolerance))


INFINITY = 1e6  # metres: how far away the sky is where it needs a place


def pointmap(K: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(H, W, 3) float64 camera-frame points of z-depth (H, W), metres. K: (3, 3) pixels."""
    x, y = (values[0].numpy() for values in slopes(torch.from_numpy(K)[None], Grid(depth.shape[1], depth.shape[0])))
    with np.errstate(invalid="ignore"):
        return np.stack([x[None] * depth, y[:, None] * depth, depth], axis=-1)


def points_in_view(view_i: SceneView, view_j: SceneView, depth_i: np.ndarray, parts_i: np.ndarray) -> np.ndarray:
    """(H, W, 3) where the surface points seen by camera i are at time j, in camera j's frame; movers move along.

    depth_i: (H, W) metres, inf: the sky, which is put INFINITY away; parts_i: (H, W) rigid part that each pixel sees.
    """
    poses = (
        torch.tensor(values)[None]
        for values in (view_i.world_from_cam, view_j.world_from_cam, view_i.world_from_part, view_j.world_from_part)
    )
    static = carried_still(*(torch.tensor(v.world_from_cam)[None] for v in (view_i, view_j)))
    # The sky, part -1, goes with the still world: as the last of the parts.
    cam_j_from_cam_i = torch.cat([carried(*poses), static], dim=1)
    depth = torch.from_numpy(np.where(np.isinf(depth_i), INFINITY, depth_i).astype(np.float64))
    parts = torch.from_numpy(np.where(parts_i < 0, cam_j_from_cam_i.shape[1] - 1, parts_i))
    return points_carried(depth[None], parts[None], torch.from_numpy(view_i.K)[None], cam_j_from_cam_i)[0].numpy()


def flow_between(view_i: SceneView, view_j: SceneView, depth_i: np.ndarray, parts_i: np.ndarray) -> np.ndarray:
    """(H, W, 2) float64 optical flow (x, y) in pixels from i to j; NaN where a point goes behind camera j."""
    points = torch.from_numpy(points_in_view(view_i, view_j, depth_i, parts_i))[None]
    height, width = depth_i.shape
    target = projected(points, torch.from_numpy(view_j.K)[None])[0].numpy()
    return target - np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)


def occluded_between(
    view_i: SceneView,
    view_j: SceneView,
    depth_i: np.ndarray,
    parts_i: np.ndarray,
    depth_j: np.ndarray,
    tolerance: float = 0.02,
) -> np.ndarray:
    """(H, W) bool, True where what camera i sees leaves image j or is hidden there.

    tolerance: relative; a point farther than the surface that j sees in its place by more than this is hidden.
    """
    points = points_in_view(view_i, view_j, depth_i, parts_i)
    height, width = depth_i.shape
    flow = flow_between(view_i, view_j, depth_i, parts_i)
    target = np.nan_to_num(flow, nan=-1e6) + np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    u, v = np.rint(target[..., 0]).astype(int), np.rint(target[..., 1]).astype(int)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    seen = depth_j[np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)]
    return ~inside | (points[..., 2] > seen * (1 + tolerance))
