"""Groups encoder tokens of all frames, so that what looks alike is judged alike (Easi3R eq. 12-15)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

PUBLISHED_SEED = 42
WARM_ITERATIONS = 3  # Lloyd steps that follow a stream from one window to the next


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
            model = KMeans(len(start), init=start, n_init=1, max_iter=WARM_ITERATIONS, random_state=PUBLISHED_SEED)
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


def _k_means(clusters: int, tokens: Sequence[Tensor]) -> KMeans:
    return KMeans(min(clusters, sum(map(len, tokens))), n_init="auto", random_state=PUBLISHED_SEED)


def _fit(model: KMeans, tokens: Sequence[Tensor]) -> Tensor:
    with warnings.catch_warnings():
        # Fewer distinct tokens than clusters (a blank image), or the few warm iterations: both are fine.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = model.fit(_stacked(tokens)).labels_
    return torch.from_numpy(labels.astype(np.int64)).view(len(tokens), -1)  # (F * N,) -> (F, N)


def _stacked(tokens: Sequence[Tensor]) -> np.ndarray:
    return torch.cat(list(tokens)).float().cpu().numpy()  # (F * N, C)
