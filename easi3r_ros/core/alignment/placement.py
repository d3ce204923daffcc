"""The pose of a new frame: its pairs say where the points of earlier frames are seen now.

Robust Gauss-Newton on the reprojection error of world points, the frames they come from (anchors), and what a pair
knows of its own pose and noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from easi3r_ros.core.engine import Parcel, fetch_each
from easi3r_ros.core.geometry import (
    invert_se3,
    pixel_grid,
    project,
    rays_of,
    transform,
    unproject,
    weighted_median,
    weighted_procrustes,
)
from easi3r_ros.core.types import AlignedFrame, PairGeometry

NEAR = 1e-3  # points closer than this share of the median depth would dominate through 1/z
CAUCHY_FLOOR = 5e-4  # radians; a residual below this is sub-pixel noise, whatever its spread
INLIER = 6e-3  # radians; 1.6 pixels of a 320 pixel image
INLIER_NOISE = 2.5  # or this many times the noise of the pixels themselves, whichever is more
CONVERGED = 1e-6  # world units and radians
SAMPLES = 1500  # pixels per pair from which poses and scales are estimated: more would not make them better
PAIR_CONFIDENCE_FLOOR = 0.05  # a pair without parallax knows no depth but still knows the rotation
MAX_PIXEL_NOISE = 0.02  # radians; a pair that misplaces its own pixels by more is garbage
EXACT = 1e-3  # radians; a pair that misplaces them by less has the camera's own focal length
LEAP = 0.03  # radians; a camera that moved its image by less is found from where it was
_PAIR_MAPS = ("points_a", "points_b", "conf_a", "conf_b")
PAIR_POSE_ITERATIONS = 30  # from the identity, without a better guess
# Square world units and square radians: what a covariance says of a direction that nothing was measured of. Robots'
# filters know 1e6 as a value that they need not believe.
UNKNOWN_VARIANCE = 1e6
NO_INFORMATION = 1e-12  # of the largest eigenvalue: what is left of a direction without any, by rounding


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


# Points behind the camera are infinitely wrong, and do not count: no reason for NumPy to warn of infinity.
_QUIET = np.errstate(invalid="ignore", over="ignore", divide="ignore")


class Reprojection:
    """World points, and the pixels where a camera of unknown pose sees them. Points without weight take no part.

    In NumPy, coordinate by coordinate: a pose is found in some ten passes over a few thousand points, and PyTorch would
    spend more time on calls than on arithmetic.
    """

    def __init__(self, world_points: torch.Tensor, pixels: torch.Tensor, weights: torch.Tensor, K: torch.Tensor):
        """As `register`. Raises ValueError if fewer than 6 points have weight."""
        weights = weights.double().numpy()
        counted = weights > 0
        if counted.sum() < 6:
            raise ValueError("fewer than 6 static points with known depth")
        self._everything = world_points.double().numpy().T  # (3, N)
        self._world = np.ascontiguousarray(self._everything[:, counted])  # (3, M)
        self._pixels = np.ascontiguousarray(pixels.double().numpy().T[:, counted])  # (2, M)
        self.weights = weights[counted] / weights[counted].mean()  # (M,) so that the information matrix counts points
        self._focal, self._centre = K.double().numpy()[[0, 1], [0, 1]], K.double().numpy()[:2, 2]
        self._jacobian = np.zeros((6, 2, self._world.shape[1]))

    @_QUIET
    def median_error(self, world_from_cam: torch.Tensor) -> float:
        """Median reprojection error in pixels; points behind the camera are infinitely wrong."""
        points = self._seen_from(invert_se3(world_from_cam.double()).numpy())
        return lower_median(np.where(points[2] > 0, np.sqrt((self._residual(points) ** 2).sum(0)), np.inf))

    @_QUIET
    def normal_equations(self, cam_from_world: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(6, 6) Gauss-Newton matrix, (6,) gradient, (M,) reprojection error in pixels, at the given pose."""
        points = self._seen_from(cam_from_world)
        middle = lower_median(cam_from_world[2, :3] @ self._everything + cam_from_world[2, 3])
        front = points[2] > NEAR * max(middle, 0.0)
        residual = self._residual(points)
        error = np.where(front, np.sqrt((residual**2).sum(0)), np.inf)
        sigma = max(floor, 1.4826 * lower_median(error))
        w = np.where(front, self.weights / (1.0 + (error / sigma) ** 2) / sigma**2, 0.0)
        rows = self._jacobian_at(points)
        weighted = torch.from_numpy((rows * w).reshape(6, -1))  # PyTorch multiplies: NumPy might start threads for it
        rows, residual = torch.from_numpy(rows.reshape(6, -1)), torch.from_numpy(residual.ravel())
        return (weighted @ rows.mT).numpy(), (weighted @ residual).numpy(), error

    def _seen_from(self, cam_from_world: np.ndarray) -> np.ndarray:
        return cam_from_world[:3, :3] @ self._world + cam_from_world[:3, 3:]

    def _residual(self, points: np.ndarray) -> np.ndarray:
        flat = points[:2] / np.maximum(points[2], 1e-9)
        return self._focal[:, None] * flat + (self._centre[:, None] - self._pixels)

    def _jacobian_at(self, points: np.ndarray) -> np.ndarray:
        """(6, 2, M) derivative of the pixels by a twist of the camera, translation first."""
        rows, (fx, fy) = self._jacobian, self._focal
        inverse = 1.0 / np.maximum(points[2], 1e-9)
        x, y = points[0] * inverse, points[1] * inverse
        rows[0, 0], rows[1, 1] = fx * inverse, fy * inverse
        rows[2, 0], rows[2, 1] = -x * rows[0, 0], -y * rows[1, 1]
        product = x * y
        rows[3, 0], rows[3, 1] = -fx * product, -fy * (1 + y * y)
        rows[4, 0], rows[4, 1] = fx * (1 + x * x), fy * product
        rows[5, 0], rows[5, 1] = -fx * y, fy * x
        return rows


def lower_median(values: np.ndarray) -> float:
    """As PyTorch has it: of an even number the lower of the two in the middle."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


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
    points = Reprojection(world_points, pixels, weights, K)
    return registered(points, float(K[0, 0]), world_from_cam, iterations, noise_px)


def registered(
    points: Reprojection, focal: float, world_from_cam: torch.Tensor, iterations: int, noise_px: float
) -> Registration:
    """As `register`."""
    floor, inlier = max(CAUCHY_FLOOR * focal, noise_px), max(INLIER * focal, INLIER_NOISE * noise_px)
    cam_from_world = invert_se3(world_from_cam.double()).numpy()
    for _ in range(iterations):
        normal, gradient, _ = points.normal_equations(cam_from_world, floor)
        if not normal.diagonal().min() > 0:
            raise ValueError("no static point with known depth is in front of the camera")
        step = -np.linalg.solve(normal + 1e-9 * normal.diagonal().mean() * np.eye(6), gradient)
        cam_from_world = rigid_step(step) @ cam_from_world
        if np.linalg.norm(step) < CONVERGED:
            break
    normal, _, error = points.normal_equations(cam_from_world, floor)
    inliers = float(points.weights @ (error < inlier) / points.weights.sum())
    residual = float(weighted_median(torch.from_numpy(error), torch.from_numpy(points.weights)))
    pose = invert_se3(torch.from_numpy(cam_from_world))
    return Registration(pose, torch.from_numpy(normal), residual, inliers)


def rigid_step(twist: np.ndarray) -> np.ndarray:
    """As `se3_exp`, of one (6,) twist, in closed form."""
    generator = np.array(
        [[0, -twist[5], twist[4]], [twist[5], 0, -twist[3]], [-twist[4], twist[3], 0]], dtype=np.float64
    )
    angle = float(np.sqrt(twist[3:] @ twist[3:]))
    if angle < 1e-2:  # series: the quotients below lose their digits
        square = angle**2
        a, b, c = (
            1 - square / 6 * (1 - square / 20),
            0.5 - square / 24 * (1 - square / 30),
            1 / 6 - square / 120 * (1 - square / 42),
        )
    else:
        a, b = np.sin(angle) / angle, 2 * (np.sin(angle / 2) / angle) ** 2
        c = (1 - a) / angle**2
    squared = generator @ generator
    out = np.eye(4)
    out[:3, :3] += a * generator + b * squared
    out[:3, 3] = twist[:3] + b * generator @ twist[:3] + c * squared @ twist[:3]
    return out


def world_covariance(information: torch.Tensor, world_from_cam: torch.Tensor) -> np.ndarray:
    """(6, 6) pose covariance in world axes from the (6, 6) information of the camera-frame twist, translation first.

    A direction without information has UNKNOWN_VARIANCE, and so has everything where the information is not finite.
    """
    twist = _covariance(information.detach().cpu().double().numpy())
    block = np.zeros((6, 6))
    block[:3, :3] = block[3:, 3:] = world_from_cam.cpu().numpy()[:3, :3]
    return block @ twist @ block.T


def unknown_covariance() -> np.ndarray:
    """(6, 6) of a pose that was not measured."""
    return np.eye(6) * UNKNOWN_VARIANCE


def is_known(covariance: np.ndarray) -> bool:
    """Whether a (6, 6) covariance says something about every direction."""
    return bool(np.linalg.eigvalsh(covariance)[-1] < 0.5 * UNKNOWN_VARIANCE)


def _covariance(information: np.ndarray) -> np.ndarray:
    """(6, 6) inverse of the information, at most UNKNOWN_VARIANCE in any direction."""
    if not np.isfinite(information).all():
        return unknown_covariance()
    # Not pinv, which says of a direction without information that it is known exactly.
    values, directions = np.linalg.eigh(information)
    values = np.where(values > NO_INFORMATION * values[-1], values, 0.0)
    return (directions / (values + 1 / UNKNOWN_VARIANCE)) @ directions.T


@dataclass
class Anchor:
    """An aligned frame. Its depth and pose are fixed; what is believed to move in it may still be corrected."""

    frame: AlignedFrame  # maps on the pairs' device
    static: torch.Tensor  # (h, w) float32 weight, 1 where static
    known: bool  # it has depth to attach to

    @cached_property
    def points(self) -> torch.Tensor:
        """(h, w, 3) float32 in its own camera; NaN where its depth is not known."""
        return unproject(self.frame.depth, torch.from_numpy(self.frame.K))

    @cached_property
    def information(self) -> torch.Tensor:
        """(h, w) weight of its depth."""
        return information(self.frame.confidence)

    @property
    def world_from_cam(self) -> torch.Tensor:
        """(4, 4) float64, on the host."""
        return torch.from_numpy(self.frame.world_from_cam)


def information(confidence: torch.Tensor) -> torch.Tensor:
    """Weight of a pointmap's pixel: log(conf), as in the alignment objective (METHOD 7); 0: nothing is known."""
    return confidence.clamp(min=1.0).log()


def sampling(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Index of a regular sub-grid of about SAMPLES pixels of an (h, w) map."""
    stride = max(1, round((shape[0] * shape[1] / SAMPLES) ** 0.5))
    return (slice(stride // 2, None, stride),) * 2


@dataclass(frozen=True)
class PairSample:
    """A sub-grid of (n, m) pixels of a pair's maps, on the host: what poses and scales are estimated from."""

    a: int  # frame indices, as PairGeometry
    b: int
    pixels: torch.Tensor  # (n, m, 2) where the sub-grid is
    points_a: torch.Tensor  # (n, m, 3)
    points_b: torch.Tensor  # (n, m, 3)
    conf_a: torch.Tensor  # (n, m)
    conf_b: torch.Tensor  # (n, m)


def pair_sample(pair: PairGeometry, step: tuple[slice, slice] | None = None) -> PairSample:
    """The sample of one pair; step: another sub-grid than `sampling` takes."""
    shape = tuple(pair.conf_a.shape)
    step = sampling(shape) if step is None else step
    maps = fetch_each([getattr(pair, name)[step] for name in _PAIR_MAPS], "journal")
    return PairSample(pair.a, pair.b, pixel_grid(*shape)[step], *maps)


@dataclass(frozen=True)
class AnchorSample:
    """The same sub-grid of an anchor, on the host."""

    world_from_cam: torch.Tensor  # (4, 4) float64
    points: torch.Tensor  # (n, m, 3) in its own camera; NaN where its depth is not known
    information: torch.Tensor  # (n, m)
    static: torch.Tensor  # (n, m)
    known: bool

    @property
    def depth(self) -> torch.Tensor:
        return self.points[..., 2]


@dataclass(frozen=True)
class Samples:
    """What the host sees of a new frame's pairs and their anchors."""

    pairs: list[PairSample]
    anchors: dict[int, AnchorSample]
    extra: list[float]


def take_samples(
    pairs: Sequence[PairGeometry],
    anchors: Mapping[int, Anchor],
    extra: Sequence[torch.Tensor] = (),
    parcel: Parcel | None = None,
) -> Samples:
    """Sub-grids of pairs and anchors, with a few numbers () beside them, in one copy from their device to the host.

    parcel: goes with it.
    """
    if not pairs:
        return Samples([], {}, [])
    parcel = parcel or Parcel("samples")
    shape = tuple(pairs[0].conf_a.shape)
    step = sampling(shape)
    maps = [getattr(pair, name)[step] for pair in pairs for name in _PAIR_MAPS]
    maps += [values[step] for anchor in anchors.values() for values in _anchor_maps(anchor)]
    sampled = [landing.open() for landing in [parcel.add(values) for values in (*maps, *extra)]]
    numbers = [float(value) for value in sampled[len(maps) :]]
    pixels = pixel_grid(*shape)[step]
    count = len(_PAIR_MAPS)
    return Samples(
        [PairSample(pair.a, pair.b, pixels, *sampled[i * count : (i + 1) * count]) for i, pair in enumerate(pairs)],
        {
            index: _anchor_sample(anchor, pixels, *sampled[start : start + 3])
            for start, (index, anchor) in zip(range(len(pairs) * count, len(maps), 3), anchors.items(), strict=True)
        },
        numbers,
    )


def _anchor_maps(anchor: Anchor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return anchor.frame.depth, anchor.frame.confidence, anchor.static


def _anchor_sample(
    anchor: Anchor, pixels: torch.Tensor, depth: torch.Tensor, confidence: torch.Tensor, static: torch.Tensor
) -> AnchorSample:
    points = rays_of(pixels, torch.from_numpy(anchor.frame.K)) * depth[..., None]
    return AnchorSample(anchor.world_from_cam, points, information(confidence), static, anchor.known)


@dataclass(frozen=True)
class Observation:
    """Points of an anchor, and where one pair sees them from the new frame."""

    world: torch.Tensor  # (N, 3) world points
    in_new: torch.Tensor  # (N, 3) the same in the new camera, pair units
    pixels: torch.Tensor  # (N, 2) their projection
    weights: torch.Tensor  # (N,) >= 0
    noise_px: float  # error of the pixels


def place(
    seen: Sequence[tuple[PairSample, AnchorSample]], K: np.ndarray, last_pose: np.ndarray, iterations: int
) -> Registration:
    """The pose of a new frame. seen: pairs (new, anchor), each with its anchor; last_pose: (4, 4) world_from_cam.

    Raises ValueError, with the reason in words, if the pairs do not determine a pose.
    """
    intrinsics = torch.from_numpy(K)
    observations = [observe(pair, anchor, intrinsics) for pair, anchor in seen]
    observations = [item for item in observations if item.noise_px <= MAX_PIXEL_NOISE * K[0, 0]]
    if not observations:
        raise ValueError("no usable pair with a frame whose depth is known")
    strongest = max(observations, key=lambda item: float(item.weights.sum()))
    if not bool((strongest.weights > 0).any()):
        raise ValueError("no static pixel with known depth is seen again")
    names = ("world", "pixels", "weights")
    points = Reprojection(*(torch.cat([getattr(item, name) for item in observations]) for name in names), intrinsics)
    start = torch.from_numpy(last_pose)  # good for the usual small step
    if points.median_error(start) > LEAP * K[0, 0]:  # after dropped frames: weighted Procrustes (METHOD 7)
        leapt = robust_similarity(strongest.in_new, strongest.world, strongest.weights)
        start = min(start, leapt, key=points.median_error)
    noise = max(item.noise_px for item in observations)
    return registered(points, float(K[0, 0]), start, iterations, noise)


def observe(pair: PairSample, anchor: AnchorSample, K: torch.Tensor) -> Observation:
    """What a pair (new, anchor) says about where the anchor's points are seen now."""
    K, noise = believed(pair, K)
    world = transform(anchor.world_from_cam.to(pair.points_b), anchor.points).reshape(-1, 3)
    in_new = pair.points_b.reshape(-1, 3)
    # The anchor's own confidence: a still camera has pairs without parallax, yet its world is well known.
    weights = anchor.information * (information(pair.conf_b) + PAIR_CONFIDENCE_FLOOR)
    weights = (weights * anchor.static).reshape(-1)
    weights = torch.where((in_new[:, 2] > 0) & torch.isfinite(world[:, 2]), weights, torch.zeros_like(weights))
    return Observation(torch.nan_to_num(world), in_new, project(in_new, K), weights, noise)


def pair_intrinsics(pair: PairSample, K: torch.Tensor) -> torch.Tensor:
    """(3, 3) K with the focal length that the backbone believes in, see `believed`."""
    return believed(pair, K)[0]


def believed(pair: PairSample, K: torch.Tensor) -> tuple[torch.Tensor, float]:
    """(3, 3) K with the focal length that the backbone believes in, as a network knows no camera_info; `pixel_noise`.

    Its pointmaps are as much too wide or too narrow as its focal length is too short or too long, so that points must
    be projected with it to land on the pixels that are meant. Weighted median over the pixels of a.
    """
    noise = pixel_noise(pair, K)
    if noise < EXACT * K[0, 0]:
        return K, noise
    offset = pair.pixels - K[:2, 2].to(pair.pixels)
    slope = torch.nan_to_num(pair.points_a[..., :2] / pair.points_a[..., 2:].clamp(min=1e-9))
    square = (slope * slope).sum(-1).flatten()
    if not bool(square.any()):
        return K, noise  # points on the axis alone: garbage, and the pixels will say so
    focal = float(weighted_median((offset * slope).sum(-1).flatten() / square.clamp(min=1e-12), square.sqrt()))
    if not focal > 0:
        return K, noise
    own = K.clone()
    own[0, 0], own[1, 1] = focal, focal * K[1, 1] / K[0, 0]
    return own, pixel_noise(pair, own)


def pixel_noise(pair: PairSample, K: torch.Tensor) -> float:
    """How far, in pixels, the backbone puts a's points from a's own pixels: its error across the rays (median)."""
    return float((project(pair.points_a, K) - pair.pixels).norm(dim=-1).median())


def pair_pose(pair: PairSample, static_b: torch.Tensor, K: np.ndarray) -> torch.Tensor:
    """(4, 4) b_from_a of a pair, in pair units: b's points (in a's camera) on b's own pixels.

    static_b: (n, m) weight on the sub-grid, 1 where static. Raises ValueError if nothing static is there.
    """
    points = pair.points_b.reshape(-1, 3)
    weights = (information(pair.conf_b) + PAIR_CONFIDENCE_FLOOR) * static_b
    start = torch.eye(4, dtype=torch.float64)
    intrinsics = pair_intrinsics(pair, torch.from_numpy(K))
    # `register` returns world_from_cam; with a as the world and b as the camera that is a_from_b.
    pixels = pair.pixels.reshape(-1, 2)
    registration = register(points, pixels, weights.reshape(-1), intrinsics, start, PAIR_POSE_ITERATIONS)
    return invert_se3(registration.world_from_cam)
