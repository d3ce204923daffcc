"""The motion of a camera between two views: a pinhole, matches with known covariance, robust Gauss-Newton on them.

Points go from camera a to camera b by x_b = R x_a + t, |t| = 1. Residuals are in standard deviations of the matches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from easi3r_ros.core.geometry import intrinsics
from easi3r_ros.core.two_view.flow import CONFIRMED, Flow

PER_DIRECTION = 500  # samples of the flow a -> b, and as many of b -> a
MAX_DEVIATION = 0.6  # pixels, standard deviation along the worse direction
QUARTER_OF_NORMAL, QUARTER_OF_RAYLEIGH = 0.3186, 0.7585  # first quartiles of |x| and of |(x, y)| at unit deviation
KERNEL = 2.5  # robust scales at which a residual has lost three quarters of its weight
SMALLEST_SCALE = 0.7  # standard deviations: noise is hardly ever further below what is expected
CORRELATED = 20.0  # neighbouring matches share patches: so many count as one
CONVERGED = 0.05  # of the cost, in squared standard deviations: a step that nobody would notice


@dataclass(frozen=True)
class Camera:
    """A pinhole; pixel centres at integers, x right, y down, z forward."""

    focal: np.ndarray  # (2,) pixels
    centre: np.ndarray  # (2,) pixels

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """(N, 2) pixels -> (N, 3) directions with z = 1."""
        return np.concatenate([(pixels - self.centre) / self.focal, np.ones((len(pixels), 1))], axis=-1)

    def matrix(self) -> np.ndarray:
        """(3, 3) K."""
        (fx, fy), (cx, cy) = self.focal, self.centre
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    def zoomed(self, log_factor: float) -> Camera:
        return Camera(self.focal * np.exp(log_factor), self.centre)


@dataclass(frozen=True)
class FocalBelief:
    """A normal distribution over the logarithm of the focal length."""

    log_focal: float  # of pixels
    information: float  # 1 / variance; infinite: known exactly

    @property
    def known(self) -> bool:
        return bool(np.isinf(self.information))


def camera_from(K: np.ndarray | None, size: tuple[int, int], belief: FocalBelief) -> Camera:
    """The camera with intrinsics K, or, where K is None, one with the believed focal length. size: (w, h) pixels."""
    K = intrinsics(float(np.exp(belief.log_focal)), size) if K is None else K.astype(np.float64)
    return Camera(K[[0, 1], [0, 1]], K[:2, 2])


def focal_from_fov(width: int, horizontal_fov: float) -> float:
    """Focal length in pixels of an image `width` pixels wide that spans `horizontal_fov` degrees."""
    return float(width / 2 / np.tan(np.radians(horizontal_fov) / 2))


@dataclass(frozen=True)
class Matches:
    """N pixel correspondences.

    One end of each is exact (where the flow was asked), the other is measured with the given covariance. Between frames
    of a video the images differ so little that it does not matter which: the error is taken to be b's.
    """

    a: np.ndarray  # (N, 2) float64 pixels
    b: np.ndarray  # (N, 2) float64 pixels
    covariance: np.ndarray  # (N, 3) float64 pixels^2: xx, xy, yy

    def __len__(self) -> int:
        return len(self.a)

    def information(self) -> np.ndarray:
        """(N, 3) inverse covariance in the same form."""
        return _inverse(self.covariance)

    def loosened(self, pixels: float) -> Matches:
        """The same with an independent error of so many pixels, standard deviation, on top."""
        return replace(self, covariance=self.covariance + np.array([1.0, 0.0, 1.0]) * pixels**2)

    def tightened(self, pixels: float) -> Matches:
        """The opposite, as far as there was such an error."""
        variance = np.maximum(self.covariance[:, [0, 2]] - pixels**2, (0.15 * pixels) ** 2)
        return replace(self, covariance=np.stack([variance[:, 0], self.covariance[:, 1], variance[:, 1]], axis=-1))


def sample_matches(
    forward: Flow, backward: Flow, excluded_a: np.ndarray | None = None, excluded_b: np.ndarray | None = None
) -> Matches:
    """Consistent, informative matches of both directions on a regular grid.

    excluded: (g, k) bool, True where a pixel must not be used (it moves).
    """
    source_f, target_f, covariance_f = _sample(forward, excluded_a)
    source_b, target_b, covariance_b = _sample(backward, excluded_b)
    return Matches(
        a=np.concatenate([source_f, target_b]),
        b=np.concatenate([target_f, source_b]),
        covariance=np.concatenate([covariance_f, covariance_b]),
    )


def _sample(flow: Flow, excluded: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    step = max(1, int(np.sqrt(flow.cycle.size / PER_DIRECTION)))
    every = (..., slice(step // 2, None, step), slice(step // 2, None, step))
    information = flow.information[every].reshape(3, -1).T.astype(np.float64)  # (3, n, m) -> (n * m, 3)
    covariance = _inverse(information)
    usable = (flow.cycle[every].ravel() < CONFIRMED) & (_largest(covariance) < MAX_DEVIATION**2)
    if excluded is not None:
        usable &= ~excluded[every].ravel()
    source, target = (
        nodes[every].reshape(2, -1).T[usable].astype(np.float64)  # (2, n, m) -> (n * m, 2)
        for nodes in (flow.nodes, flow.target)
    )
    return source, target, covariance[usable]


def _inverse(symmetric: np.ndarray) -> np.ndarray:
    """(N, 3) xx, xy, yy -> the inverse in the same form; where there is no information, a very large variance."""
    xx, xy, yy = symmetric.T
    determinant = np.maximum(xx * yy - xy * xy, 1e-9)
    return np.stack([yy, -xy, xx], axis=-1) / determinant[:, None] + np.array([1e-6, 0.0, 1e-6])


def _largest(symmetric: np.ndarray) -> np.ndarray:
    """(N,) larger eigenvalue of (N, 3) xx, xy, yy."""
    xx, xy, yy = symmetric.T
    return (xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)


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
    R, belief = turn_of_shift(np.median(matches.b - matches.a, axis=0) / camera.focal), prior
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


def refine_motion(matches: Matches, motion: Motion, iterations: int = 10, in_front: bool = False) -> Motion:
    """Least squares, iteratively re-weighted, over rotation and direction of translation.

    in_front: a match that no point in front of the camera explains also counts for how far behind infinity it is.
    Along the epipolar lines that tells which turn it was; across them a small turn looks like a small shift.

    The focal length stays: two views with little between them say next to nothing about it, unless the camera turned.
    """
    R, t, bearings = motion.R, motion.t, Bearings.of(matches, motion.camera)
    for _ in range(iterations):
        residuals, by_turn, by_translation = _linearise_epipolar(bearings, R, t)
        tangent = _tangent(t)
        jacobian = np.concatenate([by_turn, tangent @ by_translation])
        scale = robust_scale(residuals)
        if in_front:
            information, gradient = _in_front_equations(bearings, (R, t), residuals, jacobian, scale)
        else:
            information, gradient = _normal_equations(residuals, jacobian, _weights(residuals, scale))
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


def _in_front_equations(
    bearings: Bearings, motion: tuple[np.ndarray, np.ndarray], residuals: np.ndarray, jacobian: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `_normal_equations` of residuals (N,) and jacobian (5, N), with those of what is behind infinity on top."""
    behind, by_turn = _linearise_behind(bearings, *motion)
    weights = _weights(np.hypot(residuals, behind), scale)
    information, gradient = _normal_equations(residuals, jacobian, weights)
    hidden = behind < 0
    by_both = np.pad(by_turn[:, hidden], ((0, 2), (0, 0)))  # that the translation turns the lines does not matter
    more, steeper = _normal_equations(behind[hidden], by_both, weights[hidden])
    return information + more, gradient + steeper


def _linearise_behind(bearings: Bearings, R: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far (N,) <= 0 matches lie behind infinity on their epipolar lines, and the derivatives (3, N) by turn."""
    X, Y, Z = R @ bearings.a
    x, y, (u, v, _) = X / Z, Y / Z, bearings.b
    ex, ey = t[0] - u * t[2], t[1] - v * t[2]  # along the line, from infinity to the camera
    length = np.hypot(ex, ey) + 1e-9
    ex, ey = ex / length, ey / length
    xx, xy, yy = bearings.covariance
    inverse = 1 / np.sqrt(ex * ex * xx + 2 * ex * ey * xy + ey * ey * yy)
    along = (ex * (u - x) + ey * (v - y)) * inverse
    by_turn = np.array([ex * x * y + ey * (1 + y * y), -ex * (1 + x * x) - ey * x * y, ex * y - ey * x])
    return np.minimum(along, 0.0), by_turn * inverse


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


def turn_of_shift(shift: np.ndarray) -> np.ndarray:
    """The rotation that moves the middle of the image by `shift` (x, y), in focal lengths."""
    return cv2.Rodrigues(np.array([-np.arctan(shift[1]), np.arctan(shift[0]), 0.0]))[0]


def turned(R: np.ndarray, rotation_vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation R followed by a small one, given as a rotation vector (3,) in radians."""
    return cv2.Rodrigues(rotation_vector)[0] @ R
