"""What an imperfect backbone would answer for two frames of a clip: the alignment's input, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from easi3r_lab.synthetic.assembly import truth_of
from easi3r_lab.synthetic.clips import Clip
from easi3r_lab.synthetic.correspondence import points_in_view
from easi3r_lab.synthetic.first_hits import Grid
from easi3r_lab.synthetic.scene import Scene, SceneView, view_of
from easi3r_ros.core.types import PairEvidence, PairGeometry

_AT_ONCE = 8  # frames


@dataclass(frozen=True)
class PairNoise:
    """Errors of simulated pointmaps."""

    relative: float = 0.01  # standard deviation of the distance along the ray, as share of the depth, at 3 m
    scale_range: tuple[float, float] = (0.5, 2.0)  # every pair has a hidden scale, log-uniform in this range


@dataclass(frozen=True)
class Truth:
    """One view of a scene without its colours."""

    index: int
    view: SceneView
    depth: np.ndarray  # (H, W) metres
    parts: np.ndarray  # (H, W) rigid part seen
    mask: np.ndarray  # (H, W) bool, True on movers


def iter_truths(scene: Scene, frames: int, size: tuple[int, int] = (96, 72), rate: float = 30.0) -> Iterator[Truth]:
    """The frames of a scene without their colours: a thousand in seconds. size: (W, H); rate: Hz."""
    instances = scene.instance_of_part()
    for first in range(0, frames, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, frames))
        views = [view_of(scene, index / rate, size) for index in numbers]
        for index, view, depth, parts in zip(numbers, views, *truth_of(scene, views, Grid(*size)), strict=True):
            yield Truth(index, view, depth.astype(np.float32), parts, (parts >= 0) & (instances[parts] > 0))


def simulate_pair(clip: Clip, a: int, b: int, rng: np.random.Generator, noise: PairNoise | None = None) -> PairGeometry:
    """`pair_of_truths` for two frames of a clip."""
    truths = (Truth(i, clip.view(i), clip.depth[i], clip.parts[i], clip.masks[i]) for i in (a, b))
    return pair_of_truths(*truths, rng, noise)


def pair_of_truths(a: Truth, b: Truth, rng: np.random.Generator, noise: PairNoise | None = None) -> PairGeometry:
    """Pointmaps of the ordered pair (a, b) in a's camera, with noise that grows with depth, up to a hidden scale.

    As in DUSt3R, what moves is put where it was when a was taken, which contradicts the rigid camera motion.
    """
    noise = noise or PairNoise()
    scale = np.exp(rng.uniform(*np.log(noise.scale_range)))
    points_a = points_in_view(a.view, a.view, a.depth, a.parts)
    points_b = points_in_view(b.view, a.view, b.depth, b.parts)
    return PairGeometry(
        a.index,
        b.index,
        *(torch.from_numpy(_noisy(points, rng, noise) * np.float32(scale)) for points in (points_a, points_b)),
        *(torch.from_numpy(_confidence(truth.depth)) for truth in (a, b)),
        evidence=PairEvidence(),
    )


def _noisy(points: np.ndarray, rng: np.random.Generator, noise: PairNoise) -> np.ndarray:
    growth = np.linalg.norm(points, axis=-1, keepdims=True) / 3.0
    factor = 1.0 + noise.relative * growth * rng.standard_normal((*points.shape[:2], 1))
    return (points * factor).astype(np.float32)


def _confidence(depth: np.ndarray) -> np.ndarray:
    """(H, W) float32, high near and 1 at infinity: the noise grows with depth, and a backbone knows."""
    return (1.0 + 10.0 / depth).astype(np.float32)
