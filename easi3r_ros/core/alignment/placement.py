"""The pose of a new frame: its pairs say where the points of earlier frames are seen now.

Robust Gauss-Newton on the reprojection error of world points, the frames they come from (anchors), and what a pair
knows of its own pose and noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from easi3r_ros.core.engine import fetch
from easi3r_ros.core.geometry import (
    invert_se3,
    pixel_grid,
    project,
    rays_of,
    se3_exp,
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
    return PairSample(
        pair.a, pair.b, pixel_grid(*shape)[step], *(getattr(pair, name)[step].cpu() for name in _PAIR_MAPS)
    )


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
    pairs: Sequence[PairGeometry], anchors: Mapping[int, Anchor], extra: Sequence[torch.Tensor] = ()
) -> Samples:
    """Sub-grids of pairs and anchors, with a few numbers () beside them, in one copy from their device to the host."""
    if not pairs:
        return Samples([], {}, [])
    shape = tuple(pairs[0].conf_a.shape)
    step = sampling(shape)
    maps = [getattr(pair, name)[step] for pair in pairs for name in _PAIR_MAPS]
    maps += [values[step] for anchor in anchors.values() for values in _anchor_maps(anchor)]
    flat = fetch(torch.cat([values.flatten().float() for values in (*maps, *extra)]))
    parts = iter(flat.split([values.numel() for values in (*maps, *extra)]))
    sampled = [next(parts).view(values.shape) for values in maps]
    pixels = pixel_grid(*shape)[step]
    count = len(_PAIR_MAPS)
    return Samples(
        [PairSample(pair.a, pair.b, pixels, *sampled[i * count : (i + 1) * count]) for i, pair in enumerate(pairs)],
        {
            index: _anchor_sample(anchor, pixels, *sampled[start : start + 3])
            for start, (index, anchor) in zip(range(len(pairs) * count, len(sampled), 3), anchors.items(), strict=True)
        },
        flat[len(flat) - len(extra) :].tolist() if extra else [],
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
    world, pixels, weights = (torch.cat([getattr(item, name) for item in observations]) for name in names)
    error = partial(median_error, world, pixels, weights, intrinsics)
    start = torch.from_numpy(last_pose)  # good for the usual small step
    if error(start) > LEAP * K[0, 0]:  # after dropped frames: weighted Procrustes (METHOD 7)
        start = min(start, robust_similarity(strongest.in_new, strongest.world, strongest.weights), key=error)
    noise = max(item.noise_px for item in observations)
    return register(world, pixels, weights, intrinsics, start, iterations, noise)


def observe(pair: PairSample, anchor: AnchorSample, K: torch.Tensor) -> Observation:
    """What a pair (new, anchor) says about where the anchor's points are seen now."""
    K = pair_intrinsics(pair, K)
    world = transform(anchor.world_from_cam.to(pair.points_b), anchor.points).reshape(-1, 3)
    in_new = pair.points_b.reshape(-1, 3)
    # The anchor's own confidence: a still camera has pairs without parallax, yet its world is well known.
    weights = anchor.information * (information(pair.conf_b) + PAIR_CONFIDENCE_FLOOR)
    weights = (weights * anchor.static).reshape(-1)
    weights = torch.where((in_new[:, 2] > 0) & torch.isfinite(world[:, 2]), weights, torch.zeros_like(weights))
    return Observation(torch.nan_to_num(world), in_new, project(in_new, K), weights, pixel_noise(pair, K))


def pair_intrinsics(pair: PairSample, K: torch.Tensor) -> torch.Tensor:
    """(3, 3) K with the focal length that the backbone believes in: a network knows no camera_info.

    Its pointmaps are as much too wide or too narrow as its focal length is too short or too long, so that points must
    be projected with it to land on the pixels that are meant. Weighted median over the pixels of a.
    """
    if pixel_noise(pair, K) < EXACT * K[0, 0]:
        return K
    offset = pair.pixels - K[:2, 2].to(pair.pixels)
    slope = torch.nan_to_num(pair.points_a[..., :2] / pair.points_a[..., 2:].clamp(min=1e-9))
    square = (slope * slope).sum(-1).flatten()
    if not bool(square.any()):
        return K  # points on the axis alone: garbage, and the pixels will say so
    focal = float(weighted_median((offset * slope).sum(-1).flatten() / square.clamp(min=1e-12), square.sqrt()))
    own = K.clone()
    own[0, 0], own[1, 1] = focal, focal * K[1, 1] / K[0, 0]
    return own if focal > 0 else K


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
