"""How far the observed motion of each pixel is from what a static world would show, in expected errors."""

from __future__ import annotations

import numpy as np

SAMPLE = 2  # every n-th node: enough for quantiles
TAILS = (0.03, 0.97)  # quantiles of the static world's inverse depths
FARTHER, NEARER = 0.5, 2.0  # the world may go on beyond these quantiles by these factors


def plausible_range(inverse_depth: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Inverse depths between which the static world lies, from reliable pixels."""
    values, weight = inverse_depth[::SAMPLE, ::SAMPLE].ravel(), weight[::SAMPLE, ::SAMPLE].ravel()
    known = weight > 0
    if not known.any():
        return -np.inf, np.inf
    low, high = np.quantile(values[weight >= np.median(weight[known])], TAILS)
    # Noise makes inverse depths of far things negative: then the margin goes the other way.
    return low * (FARTHER if low > 0 else NEARER), high * (NEARER if high > 0 else FARTHER)


def depth_violation(inverse_depth: np.ndarray, information: np.ndarray, low: float, high: float) -> np.ndarray:
    """(g, k) how far inverse depths are outside of [low, high], in standard deviations."""
    outside = np.maximum(np.maximum(np.float32(low) - inverse_depth, inverse_depth - np.float32(high)), 0)
    return outside * np.sqrt(information)
