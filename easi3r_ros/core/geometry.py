"""Rigid and similarity transforms, pinhole projection, weighted Procrustes: pure functions on tensors.

Transforms are 4x4 and act on column vectors; `world_from_cam @ cam_from_other` composes so that inner names cancel.
Cameras look along +z, x right, y down (REP-103 optical frame); pixel centres are at integer coordinates.
"""

from __future__ import annotations

import numpy as np
import torch


def invert_se3(pose: torch.Tensor) -> torch.Tensor:
    """(..., 4, 4) rigid transform -> its inverse."""
    rotation, translation = pose[..., :3, :3], pose[..., :3, 3:]
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation.mT
    inverse[..., :3, 3:] = -rotation.mT @ translation
    inverse[..., 3, 3] = 1.0
    return inverse


def transform(pose: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Apply a (4, 4) rigid or similarity transform to (..., 3) points."""
    return points @ pose[:3, :3].mT + pose[:3, 3]


def hat(v: torch.Tensor) -> torch.Tensor:
    """(..., 3) -> (..., 3, 3) cross-product matrix: hat(v) @ x = v x x."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def se3_exp(twist: torch.Tensor) -> torch.Tensor:
    """(..., 6) twist (translation part first) -> (..., 4, 4) rigid transform, by the matrix exponential."""
    generator = torch.zeros(*twist.shape[:-1], 4, 4, dtype=twist.dtype, device=twist.device)
    generator[..., :3, :3] = hat(twist[..., 3:])
    generator[..., :3, 3] = twist[..., :3]
    return torch.linalg.matrix_exp(generator)


def pixel_grid(height: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(height, width, 2) float32 pixel coordinates (u, v)."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack([u, v], -1)


def pixel_rays(height: int, width: int, K: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """(height, width, 3) float32 directions in the camera frame, z = 1."""
    uv = pixel_grid(height, width, device)
    return rays_of(uv, K)


def rays_of(pixels: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """(..., 2) pixels -> (..., 3) directions in the camera frame, z = 1."""
    fx, fy, cx, cy = _pinhole(K, pixels)
    x, y = (pixels[..., 0] - cx) / fx, (pixels[..., 1] - cy) / fy
    return torch.stack([x, y, torch.ones_like(x)], -1)


def unproject(depth: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """(h, w) z-depth and (3, 3) intrinsics -> (h, w, 3) points in the camera frame, in the unit of the depth."""
    return pixel_rays(*depth.shape, K, depth.device).to(depth.dtype) * depth[..., None]


def project(points: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """(..., 3) points in the camera frame -> (..., 2) pixels. Meaningful for z > 0 only."""
    fx, fy, cx, cy = _pinhole(K, points)
    z = points[..., 2].clamp(min=1e-9)
    return torch.stack([fx * points[..., 0] / z + cx, fy * points[..., 1] / z + cy], -1)


def depth_after(other_from_cam: torch.Tensor, points: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """z of (..., 3) points, times a scale, after a (4, 4) rigid transform."""
    row = other_from_cam[2]
    if row.device == points.device:
        row = row.to(points)
        return (points @ (scale * row[:3])).add_(row[3])
    x, y, z, offset = row.tolist()  # numbers travel with the kernels: no copy to the points' device
    x, y, z = scale * x, scale * y, scale * z
    return x * points[..., 0] + y * points[..., 1] + z * points[..., 2] + offset


def _pinhole(K: torch.Tensor, like: torch.Tensor) -> tuple:
    """fx, fy, cx, cy as factors for `like`; of a K on the host as numbers, which cost no copy to another device."""
    K = K.to(like) if K.device == like.device else K.tolist()
    return K[0][0], K[1][1], K[0][2], K[1][2]


def weighted_procrustes(
    source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, with_scale: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least-squares similarity target ~ scale * R source + t (Umeyama 1991, weighted).

    source, target: (N, 3); weights: (N,) >= 0. Returns ((4, 4) rigid part with R and t, scalar scale), float64.
    Raises ValueError if the weights are all zero.
    """
    source, target, weights = source.double(), target.double(), weights.double()
    total = weights.sum()
    if not total > 0:
        raise ValueError("weighted_procrustes: all weights are zero")
    w = (weights / total)[:, None]
    mean_source, mean_target = (w * source).sum(0), (w * target).sum(0)
    x, y = source - mean_source, target - mean_target
    U, S, Vt = torch.linalg.svd((w * y).mT @ x)
    sign = torch.ones(3, dtype=S.dtype, device=S.device)
    sign[2] = torch.sign(torch.det(U @ Vt))  # a reflection is no rotation (Umeyama eq. 43)
    R = U @ torch.diag(sign) @ Vt
    variance = (w[:, 0] * (x * x).sum(-1)).sum()
    scale = (S * sign).sum() / variance.clamp(min=1e-12) if with_scale else torch.ones_like(variance)
    rigid = torch.eye(4, dtype=R.dtype, device=R.device)
    rigid[:3, :3] = R
    rigid[:3, 3] = mean_target - scale * R @ mean_source
    return rigid, scale


def weighted_median(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Lower weighted median of (N,) values on the host. Raises ValueError if nothing has weight."""
    # Through NumPy, which sorts a few thousand values in half the time.
    numbers, shares = values.detach().numpy(), weights.detach().numpy()
    order = np.argsort(numbers)
    cumulative = shares[order].cumsum(dtype=np.float64).astype(shares.dtype)
    if numbers.size == 0 or not cumulative[-1] > 0:
        raise ValueError("weighted_median: nothing has weight")
    middle = np.searchsorted(cumulative, np.asarray(0.5, shares.dtype) * cumulative[-1])
    return torch.as_tensor(numbers[order[middle]])


def focal_from_pointmap(points: torch.Tensor, principal: tuple[float, float], iterations: int = 10) -> float:
    """As `focal_of_pointmap`, as a number on the host."""
    return float(focal_of_pointmap(points, principal, iterations))


def focal_of_pointmap(points: torch.Tensor, principal: tuple[float, float], iterations: int = 10) -> torch.Tensor:
    """() focal length in pixels of a pointmap in its own camera, by Weiszfeld's iteration (METHOD 7).

    points: (h, w, 3); principal: (cx, cy) in pixels. Minimises sum |pixel - f * xy/z|, not squared.
    """
    pixels = pixel_grid(*points.shape[:2], device=points.device)
    pixels = torch.stack([pixels[..., 0] - principal[0], pixels[..., 1] - principal[1]], -1)
    ratio = points[..., :2] / points[..., 2:].clamp(min=1e-9)
    ratio = torch.nan_to_num(ratio, posinf=0.0, neginf=0.0)
    cross, square = (pixels * ratio).sum(-1), (ratio * ratio).sum(-1)
    focal = cross.mean() / square.mean().clamp(min=1e-12)
    for _ in range(iterations):
        w = 1.0 / (pixels - focal * ratio).norm(dim=-1).clamp(min=1e-8)
        focal = (w * cross).mean() / (w * square).mean().clamp(min=1e-12)
    return focal


def intrinsics(focal: float, size: tuple[int, int]) -> np.ndarray:
    """(3, 3) K with square pixels and the principal point at the image centre. size: (w, h) in pixels.

    The centre is (w/2, h/2), the convention of the published alignment (METHOD 7).
    """
    return np.array([[focal, 0.0, size[0] / 2], [0.0, focal, size[1] / 2], [0.0, 0.0, 1.0]])
