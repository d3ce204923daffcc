"""From log odds of motion on coarse cells to a probability and a mask on pixels."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from easi3r_ros.core.types import Features, MotionEstimate

MOST_LOG_ODDS = 4.0
GUIDE_RADIUS = 3  # cells
GUIDE_SOFTNESS = 1e-3  # variance of grey (0 to 1) below which there is no edge to follow
SMALLEST_AREA = 8e-4  # of the image
CERTAIN = 0.6  # a region counts if its probability somewhere is this share of the way from the threshold to one


def estimate_from(
    feature: Features, log_odds: np.ndarray, threshold: float, evidence: dict[str, np.ndarray]
) -> MotionEstimate:
    """log_odds: (h', w') float32 on cells. threshold: probability above which a pixel counts as moving."""
    grey = cv2.cvtColor(feature.input.image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    cells = without_specks(1 / (1 + np.exp(-log_odds)), threshold)
    probability = torch.from_numpy(follow_edges(cells, grey))
    maps = {name: torch.from_numpy(values) for name, values in evidence.items()}
    return MotionEstimate(feature.index, probability, probability > threshold, maps)


def follow_edges(values: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """(h', w') cells -> (h, w) pixels whose borders are those of the guide: the fast guided filter (He and Sun, 2015).

    guide: (h, w) float32 in [0, 1].
    """
    small = cv2.resize(guide, values.shape[::-1], interpolation=cv2.INTER_AREA)
    slope, offset = _local_lines(values, small)
    size = guide.shape[::-1]
    result = cv2.resize(slope, size) * guide + cv2.resize(offset, size)
    return np.clip(result, 0.0, 1.0)


def _local_lines(values: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset, averaged over windows, of the lines that predict values from the guide in every window."""
    mean_guide, mean_values = _box(guide), _box(values)
    covariance = _box(guide * values) - mean_guide * mean_values
    variance = _box(guide * guide) - mean_guide * mean_guide
    slope = covariance / (variance + GUIDE_SOFTNESS)
    return _box(slope), _box(mean_values - slope * mean_guide)


def _box(values: np.ndarray) -> np.ndarray:
    return cv2.blur(values, (2 * GUIDE_RADIUS + 1, 2 * GUIDE_RADIUS + 1))


def without_specks(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Regions above the threshold that are tiny or nowhere certain get no more than the threshold (hysteresis)."""
    count, labels = cv2.connectedComponents((probability > threshold).astype(np.uint8), connectivity=8)
    area = np.bincount(labels.ravel(), minlength=count)
    certain = np.zeros(count, bool)
    certain[labels[probability > threshold + CERTAIN * (1 - threshold)]] = True
    dropped = ~certain | (area < SMALLEST_AREA * probability.size)
    return np.where(dropped[labels], np.minimum(probability, np.float32(threshold)), probability)
