"""Where is a camera, given world points and where it sees them? Robust Gauss-Newton on the reprojection error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from easi3r_ros.core.geometry import invert_se3, project, se3_exp, transform, weighted_median, weighted_procrustes

NEAR = 1e-3  # points closer than this share of the median depth would dominate through 1/z
CAUCHY_FLOOR = 5e-4  # radians; a residual below this is sub-pixel noise, whatever its spread
INLIER = 6e-3  # radians; 1.6 pixels of a 320 pixel image
INLIER_NOISE = 2.5  # or this many times the noise of the pixels themselves, whichever is more
CONVERGED = 1e-6  # world units and radians


@dataclass(frozen=True)
class Registration:
    """The outcome of one registration."""

    world_from_cam: torch.Tensor  # (4, 4) float64
    information: torch.Tensor  # (6, 6) float64 of the camera-frame twist (translation, rotation)
    residual_px: float  # weighted median reprojection error
    inliers: float  # weighted share of points that agree with the pose


def robust_similarity(
    source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, iterations: int = 5
) -> torch.Tensor:
    """(4, 4) rigid part of target ~ scale * R source + t, by re-weighted Procrustes. source, target: (N, 3).

    Residuals count relative to the distance: a pointmap's far points are wrong by metres, its near ones by millimetres.
    Raises ValueError if nothing has weight.
    """
    source, target = source.double(), target.double()
    precision = weights.double() / source.norm(dim=-1).clamp(min=1e-9) ** 2
    robust = torch.ones_like(precision)
    for _ in range(iterations):
        rigid, scale = weighted_procrustes(source, target, precision * robust)
        residual = (transform(rigid, scale * source) - target).norm(dim=-1) / (scale * source).norm(dim=-1).clamp(
            min=1e-9
        )
        sigma = residual[weights > 0].median().clamp(min=1e-4)
        robust = 1.0 / (1.0 + (residual / sigma) ** 2)
    return rigid


def median_error(
    world_points: torch.Tensor,
    pixels: torch.Tensor,
    weights: torch.Tensor,
    K: torch.Tensor,
    world_from_cam: torch.Tensor,
) -> float:
    """Median reprojection error in pixels of the points with weight; points behind the camera are infinitely wrong."""
    points = transform(invert_se3(world_from_cam.double()), world_points.double())
    error = (project(points, K) - pixels).norm(dim=-1)
    return float(torch.where(points[:, 2] > 0, error, error.new_tensor(torch.inf))[weights > 0].median())


def register(
    world_points: torch.Tensor,
    pixels: torch.Tensor,
    weights: torch.Tensor,
    K: torch.Tensor,
    world_from_cam: torch.Tensor,
    iterations: int = 10,
    noise_px: float = 0.0,
) -> Registration:
    """Minimise sum_i weights_i * cauchy(|project(cam_from_world X_i) - pixel_i| / sigma) over the camera pose.

    world_points: (N, 3); pixels: (N, 2); weights: (N,) >= 0; K: (3, 3); world_from_cam: (4, 4) initial pose.
    noise_px: what is known of the error of `pixels`. sigma follows the residuals (median absolute deviation), so that
    far starts and noisy images both converge.
    Raises ValueError if the points do not determine a pose: fewer than 6 with weight, or none in front of the camera.
    """
    world_points, pixels, weights, K = (x.double() for x in (world_points, pixels, weights, K))
    if int((weights > 0).sum()) < 6:
        raise ValueError("fewer than 6 static points with known depth")
    weights = weights / weights[weights > 0].mean()  # so that the information matrix counts points
    focal = float(K[0, 0])
    floor, inlier = max(CAUCHY_FLOOR * focal, noise_px), max(INLIER * focal, INLIER_NOISE * noise_px)
    cam_from_world = invert_se3(world_from_cam.double())
    for _ in range(iterations):
        normal, gradient, _ = _normal_equations(world_points, pixels, weights, K, cam_from_world, floor)
        if not bool(normal.diagonal().amin() > 0):
            raise ValueError("no static point with known depth is in front of the camera")
        step = -torch.linalg.solve(normal + 1e-9 * normal.diagonal().mean() * torch.eye(6).to(normal), gradient)
        cam_from_world = se3_exp(step) @ cam_from_world
        if step.norm() < CONVERGED:
            break
    normal, _, error = _normal_equations(world_points, pixels, weights, K, cam_from_world, floor)
    inliers = float((weights * (error < inlier)).sum() / weights.sum())
    return Registration(invert_se3(cam_from_world), normal, float(weighted_median(error, weights)), inliers)


def _normal_equations(
    world_points: torch.Tensor,
    pixels: torch.Tensor,
    weights: torch.Tensor,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    floor: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(6, 6) Gauss-Newton matrix, (6,) gradient, (N,) reprojection error in pixels, at the given pose."""
    points = transform(cam_from_world, world_points)
    z = points[:, 2]
    front = z > NEAR * z.median().clamp(min=0.0)
    residual = project(points, K) - pixels
    error = torch.where(front, residual.norm(dim=-1), residual.new_tensor(torch.inf))
    sigma = max(floor, 1.4826 * float(error[weights > 0].median()))
    w = torch.where(front, weights / (1.0 + (error / sigma) ** 2) / sigma**2, 0.0)
    jacobian = torch.where(front[:, None, None], _jacobian(points, K), 0.0)
    residual = torch.where(front[:, None], residual, 0.0)
    rows = jacobian.flatten(0, 1)  # (2N, 6)
    weighted = (w[:, None, None] * jacobian).flatten(0, 1).mT  # (6, 2N)
    return weighted @ rows, weighted @ residual.flatten(), error


def _jacobian(points: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """(N, 3) camera points -> (N, 2, 6) derivative of their pixels by a twist of the camera, translation first."""
    inverse = 1.0 / points[:, 2].clamp(min=1e-9)
    x, y = points[:, 0] * inverse, points[:, 1] * inverse
    zero = torch.zeros_like(x)
    u_row = K[0, 0] * torch.stack([inverse, zero, -x * inverse, -x * y, 1 + x * x, -y], -1)
    v_row = K[1, 1] * torch.stack([zero, inverse, -y * inverse, -(1 + y * y), x * y, x], -1)
    return torch.stack([u_row, v_row], -2)


def world_covariance(information: torch.Tensor, world_from_cam: torch.Tensor) -> np.ndarray:
    """(6, 6) pose covariance in world axes from the (6, 6) information of the camera-frame twist, translation first."""
    twist = np.linalg.pinv(information.cpu().numpy())
    block = np.zeros((6, 6))
    block[:3, :3] = block[3:, 3:] = world_from_cam.cpu().numpy()[:3, :3]
    return block @ twist @ block.T
