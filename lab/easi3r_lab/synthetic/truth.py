"""Exact optical flow and visibility between two views of a clip, from depth, part numbers and poses."""

from __future__ import annotations

import numpy as np
import torch

from easi3r_lab.synthetic import correspondence as between
from easi3r_lab.synthetic.first_hits import Grid, slopes
from easi3r_lab.synthetic.scene import SceneView

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
    static = between.carried_still(*(torch.tensor(v.world_from_cam)[None] for v in (view_i, view_j)))
    # The sky, part -1, goes with the still world: as the last of the parts.
    cam_j_from_cam_i = torch.cat([between.carried(*poses), static], dim=1)
    depth = torch.from_numpy(np.where(np.isinf(depth_i), INFINITY, depth_i).astype(np.float64))
    parts = torch.from_numpy(np.where(parts_i < 0, cam_j_from_cam_i.shape[1] - 1, parts_i))
    return between.points_carried(depth[None], parts[None], torch.from_numpy(view_i.K)[None], cam_j_from_cam_i)[
        0
    ].numpy()


def flow_between(view_i: SceneView, view_j: SceneView, depth_i: np.ndarray, parts_i: np.ndarray) -> np.ndarray:
    """(H, W, 2) float64 optical flow (x, y) in pixels from i to j; NaN where a point goes behind camera j."""
    points = torch.from_numpy(points_in_view(view_i, view_j, depth_i, parts_i))[None]
    height, width = depth_i.shape
    target = between.projected(points, torch.from_numpy(view_j.K)[None])[0].numpy()
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
