"""How well depth maps match the truth, up to one scale for a whole sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DepthScore:
    abs_rel: float  # mean of |estimate - truth| / truth
    delta_125: float  # share of pixels with max(estimate / truth, truth / estimate) < 1.25
    scale: float  # estimate * scale = truth
    coverage: float  # share of the pixels with a true depth that have an estimate


def score(estimated: np.ndarray, truth: np.ndarray, scale: float | None = None) -> DepthScore:
    """Compares depth of one shape, any number of frames; pixels not finite or <= 0 in either are left out.

    scale: what the estimate is multiplied with; None: the ratio of the medians (Eigen et al. 2014).
    Raises ValueError if the shapes differ or nothing can be compared.
    """
    if estimated.shape != truth.shape:
        raise ValueError(f"need depth of one shape, got {estimated.shape} and {truth.shape}")
    known = np.isfinite(truth) & (truth > 0)
    both = known & np.isfinite(estimated) & (estimated > 0)
    if not both.any():
        raise ValueError("no pixel has both an estimated and a true depth")
    estimate, target = estimated[both].astype(np.float64), truth[both].astype(np.float64)
    if scale is None:
        scale = float(_median(target) / _median(estimate))
    ratio = scale * estimate / target
    return DepthScore(
        abs_rel=float(np.abs(ratio - 1).mean()),
        delta_125=float((np.maximum(ratio, 1 / ratio) < 1.25).mean()),
        scale=scale,
        coverage=float(both.sum() / known.sum()),
    )


def _median(values: np.ndarray) -> float:
    """Of an even number of values the lower one of the two in the middle, as in the published evaluations."""
    return np.quantile(values, 0.5, method="lower")
