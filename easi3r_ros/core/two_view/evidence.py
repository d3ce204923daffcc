"""How far the depth that the observed motion of each pixel implies is from what a static world can have."""

from __future__ import annotations

import numpy as np

SAMPLE = 2  # every n-th node: enough for quantiles
TAILS = (0.1, 0.9)  # quantiles of inverse depth; movers that take more of the image than the tails pass unnoticed
FARTHER, NEARER = 0.5, 2.5  # the static world may go on beyond these quantiles by these factors


def plausible_range(inverse_depth: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Inverse depths between which the static world lies, from the better known half of it."""
    values, weight = inverse_depth[::SAMPLE, ::SAMPLE].ravel(), weight[::SAMPLE, ::SAMPLE].ravel()
    known = weight > 0
    if not known.any():
        return -np.inf, np.inf
    low, high = np.quantile(values[weight >= np.median(weight[known])], TAILS)
    return max(FARTHER * low, 0.0), max(NEARER * high, 0.0)  # nothing is behind infinity


def depth_violation(inverse_depth: np.ndarray, information: np.ndarray, low: float, high: float) -> np.ndarray:
    """(g, k) how far inverse depths are outside of [low, high], in standard deviations."""
    outside = np.maximum(np.maximum(np.float32(low) - inverse_depth, inverse_depth - np.float32(high)), 0)
    return outside * np.sqrt(information)
