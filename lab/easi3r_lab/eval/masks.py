"""How well masks match the truth: the region and boundary measures of DAVIS (Perazzi et al., CVPR 2016).

Sequences are averaged over all their frames; DAVIS itself drops the first and the last one before it calls this.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal, as DAVIS
RECALL_THRESHOLD = 0.5


@dataclass(frozen=True)
class MaskScore:
    """Mean over the frames, and share of frames above 0.5, of region similarity J and boundary accuracy F."""

    jm: float
    jr: float
    fm: float
    fr: float


def region_similarity(predicted: np.ndarray, truth: np.ndarray) -> float:
    """J, the intersection over union of two (H, W) bool masks; 1 if both are empty."""
    _same_shape(predicted, truth)
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def boundary_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """F, harmonic mean of precision and recall of the boundary pixels of two (H, W) bool masks.

    A boundary pixel is found if the other mask has one within 0.8 % of the image diagonal. Without any boundary in
    both F is 1, in only one of them 0.
    """
    _same_shape(predicted, truth)
    boundary, true_boundary = _boundary(predicted), _boundary(truth)
    if not boundary.any() or not true_boundary.any():
        return float(boundary.any() == true_boundary.any())
    radius = int(np.ceil(BOUNDARY_TOLERANCE * np.hypot(*truth.shape)))
    precision = (boundary & _dilated(true_boundary, radius)).sum() / boundary.sum()
    recall = (true_boundary & _dilated(boundary, radius)).sum() / true_boundary.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def score(predicted: np.ndarray, truth: np.ndarray) -> MaskScore:
    """DAVIS measures of a sequence of masks, both (T, H, W) bool."""
    _same_shape(predicted, truth)
    j = np.array([region_similarity(p, t) for p, t in zip(predicted, truth, strict=True)])
    f = np.array([boundary_accuracy(p, t) for p, t in zip(predicted, truth, strict=True)])
    recall_j, recall_f = (float((values > RECALL_THRESHOLD).mean()) for values in (j, f))
    return MaskScore(float(j.mean()), recall_j, float(f.mean()), recall_f)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool, True where a pixel differs from its right, lower or lower-right neighbour."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return cv2.dilate(mask.astype(np.uint8), (x**2 + y**2 <= radius**2).astype(np.uint8)) > 0


def _same_shape(predicted: np.ndarray, truth: np.ndarray) -> None:
    if predicted.shape != truth.shape or predicted.dtype != bool or truth.dtype != bool:
        raise ValueError(
            f"need two bool masks of one shape, got {predicted.dtype} {predicted.shape} and {truth.dtype} {truth.shape}"
        )
