"""How far the observed motion of each pixel is from what a static world would show, in expected errors."""

from __future__ import annotations

import numpy as np

SAMPLE = 2  # every n-th node: enough for quantiles
TAILS = (0.03, 0.97)  # quantiles of the static world's inverse depths
MARGIN = (0.5, 2.0)  # the world may go on farther and nearer than these quantiles by these factors


def plausible_range(inverse_depth: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Inverse depths between which the static world lies, from reliable pixels."""
    values, weight = inverse_depth[::SAMPLE, ::SAMPLE].ravel(), weight[::SAMPLE, ::SAMPLE].ravel()
    kept = values[weight > np.median(weight)]
    low, high = np.quantile(kept, TAILS)
    return (low * MARGIN[0] if low > 0 else low * MARGIN[1]), (high * MARGIN[1] if high > 0 else high * MARGIN[0])


def depth_violation(inverse_depth: np.ndarray, information: np.ndarray, low: float, high: float) -> np.ndarray:
    """(g, k) how far inverse depths are outside of [low, high], in standard deviations."""
    outside = np.maximum(np.maximum(np.float32(low) - inverse_depth, inverse_depth - np.float32(high)), 0)
    return outside * np.sqrt(information)
