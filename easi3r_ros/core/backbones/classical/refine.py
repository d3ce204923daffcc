"""Robust Gauss-Newton for the motion of a camera between two views, from matches with known covariance.

Points go from camera a to camera b by x_b = R x_a + t, |t| = 1. Residuals are in standard deviations of the measured end
of a match.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ros.core.backbones.classical.camera import Camera, FocalBelief
from easi3r_ros.core.backbones.classical.matches import Matches

KERNEL = 2.5  # robust scales at which a residual has lost three quarters of its weight
SMALLEST_SCALE = 0.2  # standard deviations: noise is hardly ever this far below what is expected
CORRELATED = 20.0  # neighbouring matches share patches: so many count as one


@dataclass(frozen=True)
class Motion:
    """How the camera moved from a to b."""

    R: np.ndarray  # (3, 3)
    t: np.ndarray  # (3,) of length 1; zeros: the camera only turned
    camera: Camera
    focal: FocalBelief  # after the matches have spoken

    @property
    def turns_only(self) -> bool:
        return not self.t.any()


def robust_scale(residuals: np.ndarray) -> float:
    """Standard deviation of the residuals (N,) without their outliers, from the median."""
    return max(1.4826 * float(np.median(np.abs(residuals))), SMALLEST_SCALE)


def fit_rotation(matches: Matches, camera: Camera, prior: FocalBelief, iterations: int = 10) -> Motion:
    """The turn, from no turn at all, that explains most matches."""
    R, belief = np.eye(3), prior
    for _ in range(iterations):
        residuals, jacobian = _linearise_rotation(matches, R, camera)
        weights = np.repeat(_weights(np.linalg.norm(residuals, axis=-1)), 2)
        step, belief = _solve(residuals.ravel(), jacobian.reshape(-1, 4), weights, camera, prior)  # (N, 2, 4) -> (2N, 4)
        R, camera = _turned(R, step[:3]), camera.zoomed(step[3])
    return Motion(R, np.zeros(3), camera, belief)


def refine_motion(matches: Matches, motion: Motion, prior: FocalBelief, iterations: int = 6) -> Motion:
    """Least squares, iteratively re-weighted, over rotation, direction of translation and focal length."""
    R, t, camera, belief = motion.R, motion.t, motion.camera, prior
    for _ in range(iterations):
        residuals, by_turn, by_translation, by_focal = _linearise_epipolar(matches, R, t, camera)
        tangent = np.linalg.svd(t[None])[2][1:].T  # (3, 2) directions in which a unit vector can go
        jacobian = np.concatenate([by_turn, by_translation @ tangent, by_focal], axis=-1)
        step, belief = _solve(residuals, jacobian, _weights(residuals), camera, prior)
        t = t + tangent @ np.clip(step[3:5], -0.5, 0.5)
        R, t, camera = _turned(R, step[:3]), t / np.linalg.norm(t), camera.zoomed(step[5])
    return Motion(R, t, camera, belief)


def rotation_residuals(matches: Matches, motion: Motion) -> np.ndarray:
    """(N, 2) whitened distances of the matches from where a camera that only turns would see them."""
    return _linearise_rotation(matches, motion.R, motion.camera)[0]


def epipolar_residuals(matches: Matches, motion: Motion) -> np.ndarray:
    """(N,) signed distances of the matches from their epipolar lines."""
    return _linearise_epipolar(matches, motion.R, motion.t, motion.camera)[0]


def translation_given_rotation(matches: Matches, motion: Motion) -> np.ndarray:
    """(3,) direction of translation that fits best with the rotation of `motion`: the smallest singular vector, robustly."""
    x_a, x_b = motion.camera.rays(matches.a), motion.camera.rays(matches.b)
    normals = np.cross(x_a @ motion.R.T, x_b) / np.sqrt(matches.covariance[:, [0, 2]].sum(-1, keepdims=True))
    weights = np.ones(len(normals))
    for _ in range(5):
        t = np.linalg.eigh((normals * weights[:, None]).T @ normals)[1][:, 0]
        weights = _weights(normals @ t * motion.camera.focal.mean())
    return t


def _linearise_rotation(matches: Matches, R: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Whitened residuals (N, 2) and their derivatives (N, 2, 4) by rotation vector (3) and log focal length."""
    x_a = camera.rays(matches.a)
    turned = x_a @ R.T
    x, y, z = turned.T
    o = np.zeros_like(x)
    projection = np.stack([np.stack([1 / z, o, -x / z**2], -1), np.stack([o, 1 / z, -y / z**2], -1)], axis=1)
    spin = np.stack([np.stack([o, z, -y], -1), np.stack([-z, o, x], -1), np.stack([y, -x, o], -1)], axis=1)
    # a longer focal length spreads what b sees, but the pixels of a are then narrower rays
    narrower = (x_a * [-1.0, -1.0, 0.0]) @ R.T
    by_focal = turned[:, :2, None] / z[:, None, None] + projection @ narrower[..., None]
    jacobian = np.concatenate([projection @ spin, by_focal], axis=-1) * camera.focal[:, None]
    whitening = _whitening(matches.covariance)
    return np.einsum("nij,nj->ni", whitening, camera.pixels(turned) - matches.b), whitening @ jacobian


def _linearise_epipolar(matches: Matches, R: np.ndarray, t: np.ndarray, camera: Camera) -> tuple[np.ndarray, ...]:
    """Residuals (N,) and their derivatives by rotation vector (N, 3), translation (N, 3) and log focal length (N, 1)."""
    x_a, x_b = camera.rays(matches.a), camera.rays(matches.b)
    turned, moment = x_a @ R.T, np.cross(x_b, t)
    line_b, line_a = np.cross(t, turned), moment @ R  # epipolar lines E x_a in b, E^T x_b in a
    normal = np.where(matches.measured_in_b[:, None], line_b[:, :2], line_a[:, :2]) / camera.focal
    xx, xy, yy = matches.covariance.T
    variance = xx * normal[:, 0] ** 2 + 2 * xy * normal[:, 0] * normal[:, 1] + yy * normal[:, 1] ** 2
    inverse = 1 / np.sqrt(variance + 1e-14)[:, None]  # at the epipole every direction is as good
    by_focal = -(line_a[:, :2] * x_a[:, :2] + line_b[:, :2] * x_b[:, :2]).sum(-1, keepdims=True)
    residuals = (x_b * line_b).sum(-1) * inverse[:, 0]
    return residuals, np.cross(turned, moment) * inverse, np.cross(turned, x_b) * inverse, by_focal * inverse


def _solve(
    residuals: np.ndarray, jacobian: np.ndarray, weights: np.ndarray, camera: Camera, prior: FocalBelief
) -> tuple[np.ndarray, FocalBelief]:
    """A Gauss-Newton step (P,), whose last component is log focal length, and the belief about that."""
    weighted = jacobian * weights[:, None] / CORRELATED
    normal, gradient = weighted.T @ jacobian, weighted.T @ residuals
    if prior.known:
        normal[-1], normal[:, -1], gradient[-1] = 0, 0, 0
        normal[-1, -1] = 1
    else:
        normal[-1, -1] += prior.information
        gradient[-1] += prior.information * (np.log(camera.focal[0]) - prior.log_focal)
    normal[np.diag_indices_from(normal)] += 1e-6 + 1e-6 * np.diag(normal)
    inverse = np.linalg.inv(normal)
    step = -inverse @ gradient
    if prior.known:
        return step, prior
    return step, FocalBelief(float(np.log(camera.focal[0]) + step[-1]), float(1 / inverse[-1, -1]))


def _weights(residuals: np.ndarray) -> np.ndarray:
    """Geman-McClure weights over the squared robust scale: what turns residuals (N,) into information."""
    scale = robust_scale(residuals)
    return 1 / (1 + (residuals / (KERNEL * scale)) ** 2) ** 2 / scale**2


def _whitening(covariance: np.ndarray) -> np.ndarray:
    """(N, 3) xx, xy, yy -> (N, 2, 2) W with W^T W the inverse covariance."""
    xx, xy, yy = covariance.T
    conditional = 1 / np.sqrt(xx - xy**2 / yy)
    zero = np.zeros_like(xx)
    rows = [np.stack([conditional, -conditional * xy / yy], -1), np.stack([zero, 1 / np.sqrt(yy)], -1)]
    return np.stack(rows, axis=1)


def _turned(R: np.ndarray, rotation_vector: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(rotation_vector).as_matrix() @ R
