"""What an imperfect backbone would answer for two frames of a clip: the alignment's input, without a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from easi3r_ros.core.types import PairEvidence, PairGeometry
from easi3r_ros.synthetic.raycast import View
from easi3r_ros.synthetic.render import Clip
from easi3r_ros.synthetic.truth import points_in_view


@dataclass(frozen=True)
class PairNoise:
    """Errors of simulated pointmaps."""

    relative: float = 0.01  # standard deviation of the distance along the ray, as share of the depth, at 3 m
    scale_range: tuple[float, float] = (0.5, 2.0)  # every pair has a hidden scale, log-uniform in this range


def simulate_pair(clip: Clip, a: int, b: int, rng: np.random.Generator, noise: PairNoise | None = None) -> PairGeometry:
    """Pointmaps of the ordered pair (a, b) in a's camera, with noise that grows with depth, up to a hidden scale.

    As in DUSt3R, what moves is put where it was when a was taken, which contradicts the rigid camera motion.
    """
    noise = noise or PairNoise()
    view_a, view_b = (View(clip.K, clip.world_from_cam[i], clip.world_from_part[i]) for i in (a, b))
    scale = np.exp(rng.uniform(*np.log(noise.scale_range)))
    points_a = points_in_view(view_a, view_a, clip.depth[a], clip.parts[a])
    points_b = points_in_view(view_b, view_a, clip.depth[b], clip.parts[b])
    return PairGeometry(
        a,
        b,
        *(torch.from_numpy(_noisy(points, rng, noise) * np.float32(scale)) for points in (points_a, points_b)),
        *(torch.from_numpy(_confidence(depth)) for depth in (clip.depth[a], clip.depth[b])),
        evidence=PairEvidence(),
    )


def _noisy(points: np.ndarray, rng: np.random.Generator, noise: PairNoise) -> np.ndarray:
    growth = np.linalg.norm(points, axis=-1, keepdims=True) / 3.0
    factor = 1.0 + noise.relative * growth * rng.standard_normal((*points.shape[:2], 1))
    return (points * factor).astype(np.float32)


def _confidence(depth: np.ndarray) -> np.ndarray:
    """(H, W) float32, high near and 1 at infinity: the noise grows with depth, and a backbone knows."""
    return (1.0 + 10.0 / depth).astype(np.float32)
