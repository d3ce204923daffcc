"""First hits of the rays of a pinhole camera: which part of the scene is seen where, and how far away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from easi3r_ros.synthetic.shapes import Shape
from easi3r_ros.synthetic.vectors import turned


@dataclass(frozen=True)
class View:
    """A camera and the parts of a scene at one instant."""

    K: np.ndarray  # (3, 3)
    world_from_cam: np.ndarray  # (4, 4)
    world_from_part: np.ndarray  # (P, 4, 4)


@dataclass(frozen=True)
class Hits:
    depth: np.ndarray  # (H', W') z-depth in the camera frame, metres; inf: nothing there
    part: np.ndarray  # (H', W') int16 index of the part, -1: nothing there


def pixel_rays(K: np.ndarray, us: np.ndarray, vs: np.ndarray) -> np.ndarray:
    """(H', W', 3) directions in the camera frame with z = 1, for columns `us` (W',) and rows `vs` (H',)."""
    x, y = np.meshgrid((us - K[0, 2]) / K[0, 0], (vs - K[1, 2]) / K[1, 1])
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def cast(view: View, shapes: Sequence[Shape], us: np.ndarray, vs: np.ndarray) -> Hits:
    """The nearest part along the ray of every pixel of the grid vs x us; precision is that of `us` and `vs`."""
    rays = pixel_rays(view.K, us, vs).astype(us.dtype)
    depth = np.full(rays.shape[:2], np.inf, dtype=us.dtype)
    part = np.full(rays.shape[:2], -1, dtype=np.int16)
    for index, (shape, world_from_part) in enumerate(zip(shapes, view.world_from_part, strict=True)):
        part_from_cam = np.linalg.inv(world_from_part) @ view.world_from_cam
        window = _window(shape.radius, np.linalg.inv(part_from_cam)[:3, 3], view.K, us, vs)
        if window is None:
            continue
        seen = rays[window]
        directions = turned(part_from_cam[:3, :3], seen.reshape(-1, 3))  # (h, w, 3) -> (h * w, 3)
        t = shape.intersect(part_from_cam[:3, 3], directions).reshape(seen.shape[:2])
        nearer = t < depth[window]
        depth[window][nearer] = t[nearer]
        part[window][nearer] = index
    return Hits(depth, part)


def _window(
    radius: float, centre: np.ndarray, K: np.ndarray, us: np.ndarray, vs: np.ndarray
) -> tuple[slice, slice] | None:
    """The part of the grid in which a sphere can be seen; None: nowhere. centre: (3,), camera frame."""
    if centre[2] < -radius:
        return None
    slices = []
    for axis, values in ((1, vs), (0, us)):
        low, high = _tangents(centre[axis], centre[2], radius)
        limits = np.array([low, high]) * K[axis, axis] + K[axis, 2]
        first, last = np.searchsorted(values, limits)
        if first >= last:
            return None
        slices.append(slice(first, last))
    return slices[0], slices[1]


def _tangents(x: float, z: float, radius: float) -> tuple[float, float]:
    """Slopes x/z between which a circle at (x, z) is seen from the origin; infinite where it reaches behind it."""
    distance = np.hypot(x, z)
    if distance <= radius:
        return -np.inf, np.inf
    middle, half_width = np.arctan2(x, z), np.arcsin(radius / distance)
    low, high = middle - half_width, middle + half_width
    return (
        np.tan(low) if low > -np.pi / 2 + 1e-6 else -np.inf,
        np.tan(high) if high < np.pi / 2 - 1e-6 else np.inf,
    )
