"""Exact optical flow and visibility between two views, from depth, part numbers and poses."""

from __future__ import annotations

import numpy as np

from easi3r_ros.synthetic.raycast import View, pixel_rays


def points_in_view(view_i: View, view_j: View, depth_i: np.ndarray, parts_i: np.ndarray) -> np.ndarray:
    """(H, W, 3) where the surface points seen by camera i are at time j, in camera j's frame; movers move along.

    depth_i: (H, W) metres; parts_i: (H, W) index of the rigid part each pixel sees.
    """
    carried = view_j.world_from_part @ np.linalg.inv(view_i.world_from_part)  # (P, 4, 4) later world from earlier
    cam_j_from_cam_i = np.linalg.inv(view_j.world_from_cam) @ carried @ view_i.world_from_cam  # (P, 4, 4)
    height, width = depth_i.shape
    points = pixel_rays(view_i.K, np.arange(float(width)), np.arange(float(height))) * depth_i[..., None]
    moved = cam_j_from_cam_i[parts_i]  # (H, W, 4, 4)
    return np.einsum("hwij,hwj->hwi", moved[..., :3, :3], points) + moved[..., :3, 3]


def flow_between(view_i: View, view_j: View, depth_i: np.ndarray, parts_i: np.ndarray) -> np.ndarray:
    """(H, W, 2) float64 optical flow (x, y) in pixels from i to j; NaN where a point goes behind camera j."""
    points = points_in_view(view_i, view_j, depth_i, parts_i)
    height, width = depth_i.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        target = points[..., :2] / points[..., 2:] * view_j.K[[0, 1], [0, 1]] + view_j.K[:2, 2]
    flow = target - np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    flow[points[..., 2] <= 1e-6] = np.nan
    return flow


def occluded_between(
    view_i: View, view_j: View, depth_i: np.ndarray, parts_i: np.ndarray, depth_j: np.ndarray, tolerance: float = 0.02
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
