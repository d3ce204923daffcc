"""One threshold for the maps of all frames: multi-Otsu with the published choice of the class count (METHOD 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.exposure import histogram
from skimage.filters import threshold_multiotsu

CLASS_COUNTS = (2, 3, 4)
BINS = 256


@dataclass(frozen=True)
class Partition:
    """Values cut into classes by multi-Otsu."""

    thresholds: np.ndarray  # (classes - 1,) float64, ascending
    score: float  # variance of the class means / sqrt(classes)


@dataclass(frozen=True)
class Histogram:
    """Counts of values; frames that are gone can stay in it at no cost."""

    counts: np.ndarray  # (bins,) int64
    centres: np.ndarray  # (bins,) float64

    @staticmethod
    def of_unit(values: np.ndarray) -> Histogram:
        """Of values in [0, 1], on fixed bins, so that histograms of different frames can be added."""
        counts, edges = np.histogram(values, BINS, range=(0, 1))
        return Histogram(counts, (edges[:-1] + edges[1:]) / 2)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts, self.centres)

    def partitions(self) -> list[Partition]:
        """As `partitions`, of the bin centres with their counts."""
        return _partitions(self.counts, self.centres, self.centres, self.counts)


def partitions(values: np.ndarray) -> list[Partition]:
    """Multi-Otsu with 2, 3 and 4 classes over the values of all frames together; fewer if there are too few values.

    Empty for a constant map: nothing stands out, so nothing moves.
    """
    values = values.ravel()
    if values.min() == values.max():
        return []
    counts, centres = histogram(values, BINS, source_range="image")
    return _partitions(counts, centres, values, np.ones(len(values)))


def best_threshold(candidates: list[Partition]) -> float:
    """The highest threshold of the best partition (the paper says plain Otsu); infinite if there is no partition."""
    if not candidates:
        return float("inf")
    return float(max(candidates, key=lambda partition: partition.score).thresholds[-1])


def _partitions(counts: np.ndarray, centres: np.ndarray, values: np.ndarray, weights: np.ndarray) -> list[Partition]:
    distinct = np.count_nonzero(counts)
    found = []
    for classes in CLASS_COUNTS:
        if classes <= distinct:
            thresholds = threshold_multiotsu(hist=(counts, centres), classes=classes)
            found.append(Partition(thresholds, _score(thresholds, values, weights)))
    return found


def _score(thresholds: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float:
    """Variance of the unweighted means of the classes that have any value, over the square root of the class count."""
    weighted = weights * values
    above = [values >= threshold for threshold in thresholds]
    sizes = -np.diff([weights.sum(), *(weights @ mask for mask in above), 0.0])
    sums = -np.diff([weighted.sum(), *(weighted @ mask for mask in above), 0.0])
    means = sums[sizes > 0] / sizes[sizes > 0]
    return float(np.var(means) / np.sqrt(len(sizes)))
