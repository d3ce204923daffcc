"""Motion from geometry: what the rigid motion of the camera does not explain, fused over the pairs of a frame.

The probability is absolute: nothing is normalised by the frame's own extremes, so a static scene gives an empty mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch

from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.motion.base import MotionCue
from easi3r_ros.core.types import Edge, Features, MotionEstimate, PairEvidence, PairMotion

# Fitted to rendered clips (static, walking people, turning and still camera).
EVEN_ODDS = 7.0  # standard deviations at which static and moving are equally likely: errors of flow have heavy tails
STEEPNESS = 3.0  # log odds per factor e of evidence
MOST_LOG_ODDS = 4.0
SCALE = 2  # pixels per cell: flow knows no finer detail
SMEAR = 3  # pixels, width of the brush that takes off what the patches of the flow add around a mover
GUIDE_RADIUS = 3  # cells
GUIDE_SOFTNESS = 1e-3  # variance of grey (0 to 1) below which there is no edge to follow
SMALLEST_AREA = 8e-4  # of the image
CERTAIN = 0.6  # a region counts if its probability somewhere is this share of the way from the threshold to one

_Seen = dict[int, PairMotion]  # partner's index -> evidence in which this frame is view a or b


class GeometryCue(MotionCue):
    """Works on `PairMotion`, whichever backbone measured it."""

    name = "geometry"

    def __init__(self, config: MotionConfig):
        self.config = config
        self._known: dict[int, tuple[list[torch.Tensor], MotionEstimate]] = {}

    def estimate(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]
    ) -> dict[int, MotionEstimate]:
        """As the base class. Frames whose evidence is the same as in the last call are not computed again."""
        known: dict[int, tuple[list[torch.Tensor], MotionEstimate]] = {}
        for index, feature in features.items():
            maps = evidence_of(index, evidence)
            if not maps:
                continue
            previous = self._known.get(index)
            if previous is not None and _same(previous[0], maps):
                known[index] = previous
            else:
                known[index] = maps, _estimate(feature, maps, self.config.threshold)
        self._known = known
        return {index: estimate for index, (_, estimate) in known.items()}

    def reset(self) -> None:
        self._known = {}


def evidence_of(index: int, evidence: Mapping[Edge, PairEvidence]) -> list[torch.Tensor]:
    """(h, w) maps that live on frame `index`, one per partner: both orders of a pair say the same."""
    maps: dict[int, torch.Tensor] = {}
    for (a, b), pair in evidence.items():
        if pair.motion is not None and index in (a, b):
            maps[b if a == index else a] = pair.motion.a if a == index else pair.motion.b
    return list(maps.values())


def _same(old: list[torch.Tensor], new: list[torch.Tensor]) -> bool:
    return len(old) == len(new) and all(x is y for x, y in zip(old, new, strict=True))


def _estimate(feature: Features, maps: list[torch.Tensor], threshold: float) -> MotionEstimate:
    image = feature.input.image
    odds = fused_log_odds([m.cpu().numpy() for m in maps])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    cells = without_specks(1 / (1 + np.exp(-odds)), threshold)
    result = torch.from_numpy(follow_edges(cells, grey))
    return MotionEstimate(feature.index, result, result > threshold, {"geometry": torch.from_numpy(odds)})


def fused_log_odds(maps: list[np.ndarray]) -> np.ndarray:
    """(h, w) maps in standard deviations -> (h', w') log odds of motion, on cells of SCALE pixels.

    The fusion is the upper median: as much motion as at least half of the pairs see. A slow mover shows only over a
    long time, a fast one is lost by the flow over the same time, and what is just uncovered is seen from one side only.
    """
    height, width = maps[0].shape
    size = max(1, width // SCALE), max(1, height // SCALE)
    odds = []
    for sigmas in maps:
        narrowed = cv2.erode(sigmas, np.ones((SMEAR, SMEAR), np.uint8))
        cells = cv2.resize(narrowed, size, interpolation=cv2.INTER_AREA)
        odds.append(0.5 * STEEPNESS * np.log((cells * cells + 1) / (EVEN_ODDS**2 + 1)))
    return np.clip(_upper_median(odds), -MOST_LOG_ODDS, MOST_LOG_ODDS)


def _upper_median(planes: list[np.ndarray]) -> np.ndarray:
    """Per element; insertion sort of whole planes, which for a handful of them is far quicker than np.sort."""
    descending: list[np.ndarray] = []
    for plane in planes:
        for i, other in enumerate(descending):
            descending[i], plane = np.maximum(other, plane), np.minimum(other, plane)
        descending.append(plane)
    return descending[(len(planes) - 1) // 2]


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
