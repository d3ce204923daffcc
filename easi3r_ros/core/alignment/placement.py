"""The pose of a new frame: its pairs say where the points of earlier frames are seen now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from easi3r_ros.core.alignment.anchor import Anchor, information, sampling
from easi3r_ros.core.geometry import invert_se3, pixel_grid, project, transform, weighted_median
from easi3r_ros.core.registration import Registration, median_error, register, robust_similarity
from easi3r_ros.core.types import PairGeometry

PAIR_CONFIDENCE_FLOOR = 0.05  # a pair without parallax knows no depth but still knows the rotation
MAX_PIXEL_NOISE = 0.02  # radians; a pair that misplaces its own pixels by more is garbage
EXACT = 1e-3  # radians; a pair that misplaces them by less has the camera's own focal length
LEAP = 0.03  # radians; a camera that moved its image by less is found from where it was
PAIR_POSE_ITERATIONS = 30  # from the identity, without a better guess


@dataclass(frozen=True)
class Observation:
    """Points of an anchor, and where one pair sees them from the new frame."""

    world: torch.Tensor  # (N, 3) world points
    in_new: torch.Tensor  # (N, 3) the same in the new camera, pair units
    pixels: torch.Tensor  # (N, 2) their projection
    weights: torch.Tensor  # (N,) >= 0
    noise_px: float  # error of the pixels


def place(
    seen: Sequence[tuple[PairGeometry, Anchor]], K: np.ndarray, last_pose: np.ndarray, iterations: int
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
    intrinsics = intrinsics.to(world.device)
    error = partial(median_error, world, pixels, weights, intrinsics)
    start = torch.from_numpy(last_pose).to(world.device)  # good for the usual small step
    if error(start) > LEAP * K[0, 0]:  # after dropped frames: weighted Procrustes (METHOD 7)
        start = min(start, robust_similarity(strongest.in_new, strongest.world, strongest.weights), key=error)
    noise = max(item.noise_px for item in observations)
    return register(world, pixels, weights, intrinsics, start, iterations, noise)


def observe(pair: PairGeometry, anchor: Anchor, K: torch.Tensor) -> Observation:
    """What a pair (new, anchor) says about where the anchor's points are seen now."""
    step = sampling(pair.points_b.shape[:2])
    K = pair_intrinsics(pair, K, step)
    world = transform(anchor.world_from_cam.to(pair.points_b), anchor.points[step]).reshape(-1, 3)
    in_new = pair.points_b[step].reshape(-1, 3)
    # The anchor's own confidence: a still camera has pairs without parallax, yet its world is well known.
    weights = anchor.information[step] * (information(pair.conf_b[step]) + PAIR_CONFIDENCE_FLOOR)
    weights = (weights * anchor.static[step]).reshape(-1)
    weights = torch.where((in_new[:, 2] > 0) & torch.isfinite(world[:, 2]), weights, torch.zeros_like(weights))
    return Observation(torch.nan_to_num(world), in_new, project(in_new, K), weights, pixel_noise(pair, K, step))


def pair_intrinsics(pair: PairGeometry, K: torch.Tensor, step: tuple[slice, slice]) -> torch.Tensor:
    """(3, 3) K with the focal length that the backbone believes in: a network knows no camera_info.

    Its pointmaps are as much too wide or too narrow as its focal length is too short or too long, so that points must
    be projected with it to land on the pixels that are meant. Weighted median over the pixels of a.
    """
    if pixel_noise(pair, K, step) < EXACT * K[0, 0]:
        return K
    offset = pixel_grid(*pair.points_a.shape[:2], device=pair.points_a.device)[step] - K[:2, 2].to(pair.points_a)
    slope = torch.nan_to_num(pair.points_a[step][..., :2] / pair.points_a[step][..., 2:].clamp(min=1e-9))
    square = (slope * slope).sum(-1).flatten()
    if not bool(square.any()):
        return K  # points on the axis alone: garbage, and the pixels will say so
    focal = float(weighted_median((offset * slope).sum(-1).flatten() / square.clamp(min=1e-12), square.sqrt()))
    own = K.clone()
    own[0, 0], own[1, 1] = focal, focal * K[1, 1] / K[0, 0]
    return own if focal > 0 else K


def pixel_noise(pair: PairGeometry, K: torch.Tensor, step: tuple[slice, slice]) -> float:
    """How far, in pixels, the backbone puts a's points from a's own pixels: its error across the rays (median)."""
    truth = pixel_grid(*pair.points_a.shape[:2], device=pair.points_a.device)[step]
    return float((project(pair.points_a[step], K) - truth).norm(dim=-1).median())


def pair_pose(pair: PairGeometry, static_b: torch.Tensor, K: np.ndarray) -> torch.Tensor:
    """(4, 4) b_from_a of a pair, in pair units: b's points (in a's camera) on b's own pixels.

    static_b: (h, w) weight, 1 where static. Raises ValueError if nothing static is there.
    """
    step = sampling(pair.points_b.shape[:2])
    points = pair.points_b[step].reshape(-1, 3)
    weights = (information(pair.conf_b) + PAIR_CONFIDENCE_FLOOR) * static_b
    pixels = pixel_grid(*pair.points_b.shape[:2], device=points.device)[step].reshape(-1, 2)
    start = torch.eye(4, dtype=torch.float64, device=points.device)
    intrinsics = pair_intrinsics(pair, torch.from_numpy(K), step).to(points.device)
    # `register` returns world_from_cam; with a as the world and b as the camera that is a_from_b.
    registration = register(points, pixels, weights[step].reshape(-1), intrinsics, start, PAIR_POSE_ITERATIONS)
    return invert_se3(registration.world_from_cam)
