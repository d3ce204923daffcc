"""Robust Gauss-Newton for the motion of a camera between two views, from matches with known covariance.

Points go from camera a to camera b by x_b = R x_a + t, |t| = 1. Residuals are in standard deviations of the matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from easi3r_ros.core.two_view.camera import Camera, FocalBelief
from easi3r_ros.core.two_view.matches import Matches

QUARTER_OF_NORMAL, QUARTER_OF_RAYLEIGH = 0.3186, 0.7585  # first quartiles of |x| and of |(x, y)| at unit deviation
KERNEL = 2.5  # robust scales at which a residual has lost three quarters of its weight
SMALLEST_SCALE = 0.7  # standard deviations: noise is hardly ever further below what is expected
CORRELATED = 20.0  # neighbouring matches share patches: so many count as one
CONVERGED = 0.05  # of the cost, in squared standard deviations: a step that nobody would notice


@dataclass(frozen=True)
class Motion:
    """How the camera moved from a to b."""

    R: np.ndarray  # (3, 3) x_b = R x_a + t
    t: np.ndarray  # (3,) of length 1; zeros: the camera only turned
    camera: Camera
    focal: FocalBelief  # after the matches have spoken
    turn_error: float = (
        0.0  # radians, standard deviation of the rotation about its worst axis, if the camera translates
    )
    homography: np.ndarray | None = None  # (3, 3) pixels of a to b, if the camera only turned: K R K^-1 and lens errors

    @property
    def turns_only(self) -> bool:
        return not self.t.any()

    def reversed(self) -> Motion:
        """From b to a."""
        homography = None if self.homography is None else np.linalg.inv(self.homography)
        return Motion(self.R.T, -self.R.T @ self.t, self.camera, self.focal, self.turn_error, homography)


@dataclass(frozen=True)
class Bearings:
    """Matches in focal lengths."""

    a: np.ndarray  # (3, N) directions with z = 1
    b: np.ndarray  # (3, N)
    covariance: np.ndarray  # (3, N) xx, xy, yy of x and y in b

    @classmethod
    def of(cls, matches: Matches, camera: Camera) -> Bearings:
        (fx, fy), (xx, xy, yy) = camera.focal, matches.covariance.T
        covariance = np.array([xx / fx**2, xy / (fx * fy), yy / fy**2])
        return cls(camera.rays(matches.a).T.copy(), camera.rays(matches.b).T.copy(), covariance)

    def some(self, count: int) -> Bearings:
        """About `count` of them, or all if there are fewer."""
        step = max(1, self.a.shape[1] // count)
        return Bearings(self.a[:, ::step], self.b[:, ::step], self.covariance[:, ::step])


def robust_scale(residuals: np.ndarray) -> float:
    """Standard deviation of what moves rigidly: from the best quarter of the residuals (N,), most may be outliers."""
    return max(_first_quartile(np.abs(residuals)) / QUARTER_OF_NORMAL, SMALLEST_SCALE)


def robust_scale_2d(lengths: np.ndarray) -> float:
    """The same from the lengths (N,) of two-dimensional residuals."""
    return max(_first_quartile(lengths) / QUARTER_OF_RAYLEIGH, SMALLEST_SCALE)


def geman_mcclure(residuals: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """Weights in (0, 1] of residuals; a quarter at KERNEL scales."""
    return 1 / (1 + (residuals / (KERNEL * scale)) ** 2) ** 2


def robust_cost(residuals: np.ndarray, scale: float) -> float:
    """Geman-McClure: 0 for a perfect fit, 1 if all are outliers."""
    return float(1 - np.sqrt(geman_mcclure(residuals, scale)).mean())


def fit_rotation(matches: Matches, camera: Camera, prior: FocalBelief, iterations: int = 6) -> Motion:
    """The turn that explains most matches."""
    R, belief = _turn_of_shift(np.median(matches.b - matches.a, axis=0) / camera.focal), prior
    whitening = _whitening(matches)
    for _ in range(iterations):
        residuals, jacobian = _linearise_rotation(matches, R, camera, whitening)
        lengths = np.hypot(*residuals)
        weights = np.tile(_weights(lengths, robust_scale_2d(lengths)), 2)
        equations = _normal_equations(residuals.ravel(), jacobian.reshape(4, -1), weights)  # (4, 2, N) -> (4, 2N)
        step, belief = _solve_with_focal(*equations, camera, prior)
        R, camera = turned(R, step[:3]), camera.zoomed(step[3])
        if -step @ equations[1] < CONVERGED:
            break
    return Motion(R, np.zeros(3), camera, belief)


def refine_motion(matches: Matches, motion: Motion, iterations: int = 10) -> Motion:
    """Least squares, iteratively re-weighted, over rotation and direction of translation.

    The focal length stays: two views with little between them say next to nothing about it, unless the camera turned.
    """
    R, t, bearings = motion.R, motion.t, Bearings.of(matches, motion.camera)
    for _ in range(iterations):
        residuals, by_turn, by_translation = _linearise_epipolar(bearings, R, t)
        tangent = _tangent(t)
        jacobian = np.concatenate([by_turn, tangent @ by_translation])
        information, gradient = _normal_equations(residuals, jacobian, _weights(residuals, robust_scale(residuals)))
        step = -np.linalg.solve(information, gradient)
        t = t + np.clip(step[3:], -0.5, 0.5) @ tangent
        R, t = turned(R, step[:3]), t / np.linalg.norm(t)
        if -step @ gradient < CONVERGED:
            break
    turn_error = float(np.sqrt(np.linalg.eigvalsh(np.linalg.inv(information)[:3, :3])[-1]))
    return Motion(R, t, motion.camera, motion.focal, turn_error)


def rotation_residuals(matches: Matches, motion: Motion) -> np.ndarray:
    """(N,) distances of the matches from where a camera that only turns would see them."""
    return np.hypot(*_linearise_rotation(matches, motion.R, motion.camera, _whitening(matches))[0])


def epipolar_residuals(matches: Matches, motion: Motion) -> np.ndarray:
    """(N,) signed distances of the matches from their epipolar lines."""
    return _linearise_epipolar(Bearings.of(matches, motion.camera), motion.R, motion.t)[0]


def _linearise_rotation(
    matches: Matches, R: np.ndarray, camera: Camera, whitening: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whitened residuals (2, N) and their derivatives (4, 2, N) by rotation vector (3) and log focal length."""
    x_a = camera.rays(matches.a).T
    X, Y, Z = R @ x_a
    x, y = X / Z, Y / Z
    # a longer focal length spreads what b sees, but the pixels of a are then narrower rays
    dX, dY, dZ = -R[:, :2] @ x_a[:2]
    by_focal = [x + (dX - x * dZ) / Z, y + (dY - y * dZ) / Z]
    jacobian = np.array([[-x * y, -1 - y * y], [1 + x * x, x * y], [-y, x], by_focal])
    jacobian *= camera.focal[:, None]
    residuals = camera.focal[:, None] * np.array([x, y]) + camera.centre[:, None] - matches.b.T
    return _whiten(residuals, whitening), _whiten(jacobian, whitening)


def _linearise_epipolar(bearings: Bearings, R: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Residuals (N,) and their derivatives by rotation vector (3, N) and translation (3, N)."""
    turned = R @ bearings.a
    nx, ny, nz = cross(t, turned)  # epipolar lines E x_a in b
    xx, xy, yy = bearings.covariance
    sx, sy = xx * nx + xy * ny, xy * nx + yy * ny
    variance = nx * sx + ny * sy + 1e-14  # at the epipole every direction is as good
    x, y, _ = bearings.b
    algebraic = x * nx + y * ny + nz
    inverse = 1 / np.sqrt(variance)
    # derivatives at the measured points would be biased by their noise: take the likeliest points on the lines
    shift = algebraic / variance
    likeliest = np.array([x - sx * shift, y - sy * shift, np.ones_like(x)])
    by_turn = cross(turned, cross(likeliest, t))
    return algebraic * inverse, by_turn * inverse, cross(turned, likeliest) * inverse


def _normal_equations(
    residuals: np.ndarray, jacobian: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(P, P) information and (P,) gradient of weighted least squares. residuals, weights: (N,); jacobian: (P, N)."""
    weighted = jacobian * (weights / CORRELATED)
    information, gradient = weighted @ jacobian.T, weighted @ residuals
    information.flat[:: len(information) + 1] += 1e-6 * (1 + information.diagonal())  # solvable whatever the scene
    return information, gradient


def _solve_with_focal(
    information: np.ndarray, gradient: np.ndarray, camera: Camera, prior: FocalBelief
) -> tuple[np.ndarray, FocalBelief]:
    """A step (P,), whose last component is log focal length, and what is then believed about that."""
    if prior.known:
        return np.append(-np.linalg.solve(information[:-1, :-1], gradient[:-1]), 0.0), prior
    log_focal = float(np.log(camera.focal[0]))
    information[-1, -1] += prior.information
    gradient[-1] += prior.information * (log_focal - prior.log_focal)
    covariance = np.linalg.inv(information)
    step = -covariance @ gradient
    return step, FocalBelief(log_focal + float(step[-1]), float(1 / covariance[-1, -1]))


def _weights(residuals: np.ndarray, scale: float) -> np.ndarray:
    """Geman-McClure weights over the squared robust scale: what turns residuals (N,) into information."""
    return geman_mcclure(residuals, scale) / scale**2


def _whitening(matches: Matches) -> np.ndarray:
    """(3, N) w_x, skew, w_y: (w_x (x - skew y), w_y y) has unit covariance."""
    xx, xy, yy = matches.covariance.T
    return np.array([1 / np.sqrt(xx - xy**2 / yy), xy / yy, 1 / np.sqrt(yy)])


def _whiten(vectors: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """(..., 2, N) vectors to unit covariance."""
    w_x, skew, w_y = whitening
    white = np.empty_like(vectors)
    white[..., 0, :] = (vectors[..., 0, :] - skew * vectors[..., 1, :]) * w_x
    white[..., 1, :] = vectors[..., 1, :] * w_y
    return white


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product along the first axis; several times as quick as np.cross on many vectors."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _first_quartile(values: np.ndarray) -> float:
    quarter = values.size // 4
    return float(np.partition(values, quarter, axis=None)[quarter])


def _tangent(direction: np.ndarray) -> np.ndarray:
    """(2, 3) orthonormal directions in which a unit vector (3,) can go."""
    first = np.eye(3)[np.argmin(np.abs(direction))]
    first = first - (first @ direction) * direction
    first /= np.linalg.norm(first)
    return np.array([first, cross(direction, first)])


def _turn_of_shift(shift: np.ndarray) -> np.ndarray:
    """The rotation that moves the middle of the image by `shift` (x, y), in focal lengths."""
    return cv2.Rodrigues(np.array([-np.arctan(shift[1]), np.arctan(shift[0]), 0.0]))[0]


def turned(R: np.ndarray, rotation_vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation R followed by a small one, given as a rotation vector (3,) in radians."""
    return cv2.Rodrigues(rotation_vector)[0] @ R
