"""Grouping of tokens (k-means) and of values (multi-Otsu), so that what looks alike is judged alike."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from easi3r_ros.libraries import needed

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

LIBRARIES = {"sklearn": "sklearn.cluster", "skimage": "skimage.filters"}
PUBLISHED_SEED = 42
WARM_ITERATIONS = 3  # Lloyd steps that follow a stream from one window to the next


def check_libraries() -> None:
    """Raises MissingLibrary now, rather than at the first window, if something that this module uses is missing."""
    for library, module in LIBRARIES.items():
        with needed(library):
            importlib.import_module(module)


def cluster_tokens(tokens: Sequence[Tensor], clusters: int) -> Tensor:
    """k-means over the tokens of all frames together, exactly as published (eq. 13).

    tokens: per frame (N, C). Returns labels (F, N) int64. With fewer tokens than clusters every token is its own.
    """
    return _fit(_k_means(clusters, tokens), tokens)


class TokenClusters:
    """k-means that follows a stream: each window starts from the cluster centres of the one before it.

    Labels keep their meaning from window to window, and a few iterations are enough.
    """

    def __init__(self, clusters: int):
        self._clusters = clusters
        self._centres: np.ndarray | None = None  # (k, C) float32

    def assign(self, tokens: Sequence[Tensor]) -> Tensor:
        """As `cluster_tokens`, and moves the centres."""
        if self._centres is not None and len(self._centres) <= sum(map(len, tokens)):
            start = self._centres
            model = _k_means(len(start), tokens, init=start, max_iter=WARM_ITERATIONS)
        else:
            model = _k_means(self._clusters, tokens)
        labels = _fit(model, tokens)
        complete = len(model.cluster_centers_) == self._clusters
        self._centres = model.cluster_centers_.astype(np.float32) if complete else None
        return labels

    def reset(self) -> None:
        self._centres = None


def spread_cluster_means(values: Tensor, labels: Tensor) -> Tensor:
    """Every token gets the mean value of its cluster over all frames (eq. 14-15). Arguments and answer are (F, N)."""
    flat = labels.flatten()
    sums = torch.zeros(int(flat.max()) + 1, dtype=torch.float64).index_add_(0, flat, values.flatten().double())
    means = sums / torch.bincount(flat).clamp(min=1)
    return means[flat].to(values.dtype).view_as(values)


def _k_means(clusters: int, tokens: Sequence[Tensor], **options: Any) -> KMeans:
    with needed("sklearn"):
        from sklearn.cluster import KMeans
    # One start is what n_init="auto" means for k-means++; scikit-learn before 1.2 does not know that word.
    return KMeans(min(clusters, sum(map(len, tokens))), n_init=1, random_state=PUBLISHED_SEED, **options)


def _fit(model: KMeans, tokens: Sequence[Tensor]) -> Tensor:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer distinct tokens than clusters (a blank image), or the few warm iterations: both are fine.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = model.fit(_stacked(tokens)).labels_
    return torch.from_numpy(labels.astype(np.int64)).view(len(tokens), -1)  # (F * N,) -> (F, N)


def _stacked(tokens: Sequence[Tensor]) -> np.ndarray:
    return torch.cat(list(tokens)).float().cpu().numpy()  # (F * N, C)


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
    counts, edges = np.histogram(values, BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    return _partitions(counts, centres, values, np.ones(len(values)))


def best_threshold(candidates: list[Partition]) -> float:
    """The highest threshold of the best partition (the paper says plain Otsu); infinite if there is no partition."""
    if not candidates:
        return float("inf")
    return float(max(candidates, key=lambda partition: partition.score).thresholds[-1])


def _partitions(counts: np.ndarray, centres: np.ndarray, values: np.ndarray, weights: np.ndarray) -> list[Partition]:
    with needed("skimage"):
        from skimage.filters import threshold_multiotsu
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
