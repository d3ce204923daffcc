"""Dense depth of one view of a pair: triangulated where the flow allows it, filled smoothly where it does not."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

DOUBTFUL_EPIPOLAR = 3.0  # standard deviations off the epipolar line at which a depth weighs a quarter
SURFACE_VARIATION = 0.1  # relative: how far inverse depth may differ from that of its surroundings
COARSER = 0.05  # weight of the next coarser level beside what a level knows itself
CONFIDENCE_PER_SIGNIFICANCE = 0.05  # confidence 1.2 is a depth known to 25 %, 3 one known to 2.5 %
MOST_CONFIDENT = 6.0
FARTHEST = 50.0  # median depths: what is called infinity
NEAREST = 50.0  # inverse median depths: nearer than that is noise


@dataclass(frozen=True)
class InverseDepth:
    values: np.ndarray  # (g, k) float32 > 0, in units of the inverse median depth of the pair
    confidence: np.ndarray  # (g, k) float32 >= 1


def static_weight(information: np.ndarray, epipolar: np.ndarray, moving: np.ndarray | None) -> np.ndarray:
    """(g, k) information about the depth of static things: less of it off the epipolar line, none where it moves."""
    weight = information / (1 + (epipolar / DOUBTFUL_EPIPOLAR) ** 2) ** 2
    if moving is not None:
        weight[moving] = 0
    return weight


def fill(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(g, k) weighted average of the surroundings of each node, as near as there is weight to be found, by a pyramid.

    values, weight: (g, k) float32, weight in [0, 1], 1 where a value is to be trusted alone.
    """
    levels = [(values * weight, weight)]
    while min(levels[-1][1].shape) > 2:
        levels.append(tuple(cv2.pyrDown(channel) for channel in levels[-1]))
    total, mass = levels[-1]
    average = np.full_like(mass, total.sum() / max(mass.sum(), 1e-12))
    for total, mass in reversed(levels):
        above = cv2.pyrUp(average, dstsize=mass.shape[::-1]) if average.shape != mass.shape else average
        average = (total + above * COARSER) / (mass + COARSER)
    return average


def dense_inverse_depth(inverse_depth: np.ndarray, weight: np.ndarray, unit: float) -> InverseDepth:
    """Blend of what was measured with what the surroundings suggest, each weighted by its information.

    inverse_depth: (g, k), weight: (g, k) 1 / variance of it where static. unit: inverse depth that becomes 1.
    """
    measured, weight = np.clip(inverse_depth / np.float32(unit), 0.0, NEAREST), weight * np.float32(unit**2)
    surroundings = fill(measured, np.minimum(weight * SURFACE_VARIATION**2, 1.0))
    prior = 1 / (SURFACE_VARIATION * np.maximum(surroundings, SURFACE_VARIATION)) ** 2
    values = np.maximum((weight * measured + prior * surroundings) / (weight + prior), 1 / FARTHEST)
    confidence = 1 + CONFIDENCE_PER_SIGNIFICANCE * values * np.sqrt(weight)
    return InverseDepth(values, np.minimum(confidence, MOST_CONFIDENT))
