"""Grouping of tokens (k-means) and of values (multi-Otsu), so that what looks alike is judged alike.

Twice: exactly as published, with scikit-learn and scikit-image on the host (`cluster_tokens`, `partitions`), and for a
stream, with PyTorch on the device that the tensors are on, without a word to the host (`TokenClusters`, `Histogram`).
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from easi3r_ros.core.engine import fetch, fetch_each
from easi3r_ros.libraries import needed

# Of `mode: paper` alone.
LIBRARIES = {"sklearn": "sklearn.cluster", "skimage": "skimage.filters"}
PUBLISHED_SEED = 42
REVISITED = 3  # frames of a window that look for their nearest centres again; the others follow in their turn
COLD_ITERATIONS = 12  # Lloyd steps of the first window


def check_libraries() -> None:
    """Raises MissingLibrary now, rather than at the first window, if something that this module uses is missing."""
    for library, module in LIBRARIES.items():
        with needed(library):
            importlib.import_module(module)


def cluster_tokens(tokens: Sequence[Tensor], clusters: int) -> Tensor:
    """k-means over the tokens of all frames together, exactly as published (eq. 13).

    tokens: per frame (N, C). Returns labels (F, N) int64. With fewer tokens than clusters every token is its own.
    """
    with needed("sklearn"):  # here and not above: a second on a robot that never needs it
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

    model = KMeans(min(clusters, sum(map(len, tokens))), n_init="auto", random_state=PUBLISHED_SEED)
    stacked = fetch(torch.cat(list(tokens)).float(), "published").numpy()  # (F * N, C)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct tokens than clusters: a blank image
        labels = model.fit(stacked).labels_
    return torch.from_numpy(labels.astype(np.int64)).view(len(tokens), -1).to(tokens[0].device)  # (F * N,) -> (F, N)


class TokenClusters:
    """k-means that follows a stream, on the tokens' device: each window starts from the centres of the one before it.

    Labels keep their meaning from window to window, and one step is enough. Tokens that stayed keep the centre that was
    their nearest, and look again when it is their frame's turn: a window costs one move of the centres, and a look at
    the new frame and at REVISITED others.
    """

    def __init__(self, clusters: int):
        self._clusters = clusters
        self.reset()

    def assign(self, tokens: Sequence[Tensor]) -> Tensor:
        """Labels (F, N) int64 of tokens, per frame (N, C), and moves the centres.

        The same tokens again, as in a second pass over the same frames, get the same labels at no cost.
        """
        if len(tokens) == len(self._seen) and all(x is y for x, y in zip(tokens, self._seen, strict=True)):
            return self._labels
        new = self._store(tokens)
        self._fit(new)
        self._seen = tuple(tokens)
        self._labels = torch.stack([self._nearest[slot] for slot in self._slots_of(tokens)])  # (F, N)
        return self._labels

    def reset(self) -> None:
        self._centres: Tensor | None = None  # (k, C) float32
        self._seen: tuple[Tensor, ...] = ()
        self._labels = torch.empty(0, 0, dtype=torch.int64)
        self._held: list[Tensor] = []  # whose tokens are in which slot
        self._turn = 0  # the slot that looks again next
        # Of every slot: tokens (S, N, C) and their squared lengths (S, N), the nearest centre (S, N), and the squared
        # distance to that (S, N), less the token's own squared length.
        self._tokens = self._squares = self._score = self._nearest = torch.empty(0)

    def _slots_of(self, tokens: Sequence[Tensor]) -> list[int]:
        return [next(slot for slot, held in enumerate(self._held) if held is x) for x in tokens]

    def _store(self, tokens: Sequence[Tensor]) -> list[int] | None:
        """Puts new tokens where those were that are gone: the slots that changed; None: all, with other shapes."""
        kept = [any(held is x for x in tokens) for held in self._held]
        new = [x for x in tokens if not any(held is x for held in self._held)]
        free = [slot for slot, stays in enumerate(kept) if not stays]
        same = self._held and self._held[0].shape == tokens[0].shape and self._tokens.device == tokens[0].device
        if not same or len(free) != len(new):
            self._held = list(tokens)
            self._tokens = torch.stack(list(tokens)).float()
            self._squares = self._tokens.square().sum(dim=-1)
            return None
        for slot, x in zip(free, new, strict=True):
            self._held[slot] = x
            self._tokens[slot].copy_(x)
            self._squares[slot] = self._tokens[slot].square().sum(dim=-1)
        return free

    def _next_turns(self, slots: int) -> list[int]:
        turns = [(self._turn + i) % slots for i in range(min(REVISITED, slots))]
        self._turn = (turns[-1] + 1) % slots
        return turns

    def _fit(self, new: list[int] | None) -> None:
        """new: slots of which nothing is known yet, None: nothing is of any."""
        tokens, squares = self._tokens.flatten(0, 1), self._squares.flatten()
        shape = self._squares.shape
        centres = self._centres
        cold = centres is None or len(centres) > len(tokens)
        if cold:
            centres = spread_centres(tokens, squares, min(self._clusters, len(tokens)))
            for _ in range(COLD_ITERATIONS):
                centres = _moved(centres, tokens, squares, *_nearest(centres, tokens))
        else:
            for slot in new or ():
                self._score[slot], self._nearest[slot] = _nearest(centres, self._tokens[slot])
            known = _nearest(centres, tokens) if new is None else (self._score.flatten(), self._nearest.flatten())
            centres = _moved(centres, tokens, squares, *known)
        if cold or new is None:
            score, labels = _nearest(centres, tokens)
            self._score, self._nearest = score.view(shape), labels.view(shape)
        else:
            for slot in {*new, *self._next_turns(shape[0])}:
                self._score[slot], self._nearest[slot] = _nearest(centres, self._tokens[slot])
        self._centres = centres if len(centres) == self._clusters else None


def spread_centres(tokens: Tensor, squares: Tensor, clusters: int) -> Tensor:
    """Centres (k, C) to start from, each the best of a few tokens drawn by their distance to those before (k-means++).

    tokens: (T, C); squares: (T,) their squared lengths.
    """
    trials = 2 + int(math.log(clusters))
    draws = torch.rand(clusters, trials, generator=torch.Generator().manual_seed(PUBLISHED_SEED)).to(tokens.device)
    centres = torch.empty(clusters, tokens.shape[1], device=tokens.device)
    distance = torch.full_like(squares, torch.inf)  # (T,) squared, to the nearest centre so far
    weight = torch.ones_like(squares)
    for k in range(clusters):
        cumulative = weight.cumsum(0)
        drawn = torch.searchsorted(cumulative, draws[k] * cumulative[-1], right=True).clamp_(max=len(tokens) - 1)
        candidates = tokens[drawn]  # (trials, C)
        to_each = squares - 2 * (candidates @ tokens.T) + squares[drawn][:, None]  # (trials, T)
        # What differs by no more than rounding is the same token: it must not be drawn again.
        to_each = torch.where(to_each > 1e-6 * (squares + squares[drawn][:, None]), to_each, 0.0)
        closer = torch.minimum(distance, to_each)
        best = closer.sum(dim=1).argmin()[None]  # (1,): an index without a word to the host
        centres[k] = candidates.index_select(0, best)[0]
        distance = weight = closer.index_select(0, best)[0]
    return centres


def _nearest(centres: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Per token (T,) the squared distance to the nearest centre, less its own squared length, and which one it is."""
    return torch.addmm(centres.square().sum(dim=1), tokens, centres.T, alpha=-2).min(dim=1)


def _moved(centres: Tensor, tokens: Tensor, squares: Tensor, score: Tensor, labels: Tensor) -> Tensor:
    """One Lloyd step. A centre without tokens goes to one that is far from all others. score, labels: `_nearest`."""
    sums = torch.zeros_like(centres).index_add_(0, labels, tokens)
    counts = sums.new_zeros(len(centres)).index_add_(0, labels, torch.ones_like(score))
    farthest = (score + squares).topk(len(centres)).indices  # (k,)
    empty = counts == 0
    place = tokens[farthest[(empty.cumsum(0) - 1).clamp_(min=0)]]  # (k, C)
    return torch.where(empty[:, None], place, sums / counts.clamp(min=1)[:, None])


def spread_cluster_means(values: Tensor, labels: Tensor, clusters: int | None = None) -> Tensor:
    """Every token gets the mean value of its cluster over all frames (eq. 14-15). Arguments and answer are (F, N).

    clusters: labels are below it; None: looked up, which makes the host wait for the device.
    """
    flat = labels.flatten()
    sums = torch.zeros(clusters or int(flat.max()) + 1, 2, dtype=torch.float64, device=values.device)
    weighted = torch.stack((values.flatten().double(), torch.ones_like(flat, dtype=torch.float64)), dim=1)
    sums = sums.index_add_(0, flat, weighted)  # (k, sum | count)
    means = sums[:, 0] / sums[:, 1].clamp(min=1)
    return means[flat].to(values.dtype).view_as(values)


CLASS_COUNTS = (2, 3, 4)
BINS = 256
FINE_BINS = 2 * BINS  # thresholds are centres of bins: values above and below have to be told apart
UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class Partition:
    """Values cut into classes by multi-Otsu."""

    thresholds: np.ndarray  # (classes - 1,) float64, ascending
    score: float  # variance of the class means / sqrt(classes)


@dataclass(frozen=True)
class Histogram:
    """Counts of values on any device; frames that are gone can stay in it at no cost."""

    counts: Tensor  # (FINE_BINS,) float64
    low: Tensor | float  # where the first bin begins
    high: Tensor | float  # where the last bin ends

    @staticmethod
    def of(values: Tensor, sample: Tensor | None = None) -> Histogram:
        """Over the range of the values, as multi-Otsu takes it. Empty for a constant map: nothing stands out there.

        sample: those of them to count; None: all.
        """
        low, high = torch.aminmax(values)
        counted = values if sample is None else sample
        return Histogram(_counts((counted - low).div_(high - low)), low, high)

    @staticmethod
    def of_unit(values: Tensor) -> Histogram:
        """Of values in [0, 1], on fixed bins, so that histograms of different frames can be added."""
        return Histogram(_counts(values), *UNIT)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts, self.low, self.high)

    def best_threshold(self) -> Tensor:
        """() float32: the highest threshold of the best partition; infinite if there is no partition.

        As `best_threshold` of `partitions`, where every value counts as the centre of its half of a bin.
        """
        cuts, scores = self._partitions()
        best = scores.argmax()[None]
        last = self._value(cuts[:, -1].gather(0, best)[0] + 0.5)
        return torch.where(scores.isfinite().any(), last, torch.inf).float()

    def partitions(self) -> list[Partition]:
        """As the function `partitions`, on the host."""
        cuts, scores = self._partitions()
        scores, values = fetch_each([scores, self._value(cuts + 0.5)], "published")
        values = values.numpy()
        return [
            Partition(row[len(row) - classes + 1 :], float(score))
            for classes, row, score in zip(CLASS_COUNTS, values, scores, strict=True)
            if math.isfinite(score)
        ]

    def _value(self, bins: Tensor) -> Tensor:
        return self.low + bins * ((self.high - self.low) / BINS)

    def _partitions(self) -> tuple[Tensor, Tensor]:
        """Per class count: (3, 3) the last bins of its classes but the highest, right-aligned, and (3,) its score.

        The score is -inf where there are fewer distinct values than classes.
        """
        cuts = _best_cuts(self.counts.unflatten(0, (BINS, 2)).sum(dim=1))  # (3, 3)
        weights = torch.cat((self.counts.new_zeros(1), self.counts.cumsum(0)))  # (FINE_BINS + 1,)
        centres = (torch.arange(FINE_BINS, dtype=torch.float64, device=self.counts.device) + 0.5) / FINE_BINS
        sums = torch.cat((self.counts.new_zeros(1), (self.counts * centres).cumsum(0)))
        distinct = (self.counts.unflatten(0, (BINS, 2)).sum(dim=1) > 0).sum()
        scale = self.high - self.low
        scores = []
        for row, classes in zip(cuts, CLASS_COUNTS, strict=True):
            borders = 2 * row[len(row) - classes + 1 :] + 1  # what is above the centre of a bin is above the threshold
            count, total = (_between(x, borders) for x in (weights, sums))
            means, filled = total / count.clamp(min=1), count > 0
            average = torch.where(filled, means, 0).sum() / filled.sum()
            variance = torch.where(filled, (means - average) ** 2, 0).sum() / filled.sum()
            scores.append(torch.where(distinct >= classes, variance * scale**2 / classes**0.5, -torch.inf))
        return cuts, torch.stack(scores)


def partitions(values: np.ndarray) -> list[Partition]:
    """Multi-Otsu with 2, 3 and 4 classes over the values of all frames together; fewer if there are too few values.

    Exactly as published. Empty for a constant map: nothing stands out, so nothing moves.
    """
    with needed("skimage"):  # here and not above: half a second on a robot that never needs it
        from skimage.exposure import histogram
        from skimage.filters import threshold_multiotsu

    values = values.ravel()
    if values.min() == values.max():
        return []
    counts, centres = histogram(values, BINS, source_range="image")
    distinct = np.count_nonzero(counts)
    found = []
    for classes in CLASS_COUNTS:
        if classes <= distinct:
            thresholds = threshold_multiotsu(hist=(counts, centres), classes=classes)
            found.append(Partition(thresholds, _score(thresholds, values)))
    return found


def best_threshold(candidates: list[Partition]) -> float:
    """The highest threshold of the best partition (the paper says plain Otsu); infinite if there is no partition."""
    if not candidates:
        return float("inf")
    return float(max(candidates, key=lambda partition: partition.score).thresholds[-1])


def _score(thresholds: np.ndarray, values: np.ndarray) -> float:
    """Variance of the unweighted means of the classes that have any value, over the square root of the class count."""
    weights = np.ones(len(values))
    above = [values >= threshold for threshold in thresholds]
    sizes = -np.diff([weights.sum(), *(weights @ mask for mask in above), 0.0])
    sums = -np.diff([values.sum(dtype=np.float64), *(values @ mask for mask in above), 0.0])
    means = sums[sizes > 0] / sizes[sizes > 0]
    return float(np.var(means) / np.sqrt(len(sizes)))


def _counts(values: Tensor) -> Tensor:
    """Values in [0, 1] -> (FINE_BINS,) float64."""
    if values.device.type == "cpu":  # a third of the time; on a GPU it would make the host wait
        bins = (values.flatten() * FINE_BINS).to(torch.int32).clamp_(0, FINE_BINS - 1)
        return torch.bincount(bins, minlength=FINE_BINS).double()
    return torch.histc(values, FINE_BINS, *UNIT).double()


def _between(cumulative: Tensor, borders: Tensor) -> Tensor:
    """What of a cumulative sum (n + 1,) lies between consecutive borders: (classes - 1,) -> (classes,)."""
    ends = torch.cat((cumulative[:1], cumulative[borders], cumulative[-1:]))
    return ends.diff()


def _best_cuts(counts: Tensor) -> Tensor:
    """Multi-Otsu's search: (BINS,) counts -> (3, 3) int64, per class count the last bins of all classes but the last.

    The variance between classes is a sum over the classes, so that the best cuts below a given one do not depend on
    what is above it: BINS^2 steps instead of BINS^3. Of equally good cuts the lowest is taken.
    """
    bins = len(counts)
    share = counts / counts.sum().clamp(min=1)
    index = torch.arange(1, bins + 1, dtype=torch.float64, device=counts.device)
    weight, moment = (torch.cat((x.new_zeros(1), x.cumsum(0))) for x in (share, share * index))  # (bins + 1,)
    # (first, last): the class of the bins first ... last
    weights, moments = weight[None, 1:] - weight[:-1, None], moment[None, 1:] - moment[:-1, None]
    between = torch.where(weights > 0, moments**2 / weights.clamp(min=1e-300), 0.0)
    between = between.masked_fill(index[:, None] > index, -torch.inf)
    best, origins = between[0], []  # best: (bins,) of one class more each time, that ends with a bin
    above = torch.cat(
        (between[1:, -1], between.new_full((1,), -torch.inf))
    )  # (bins,) the last class, that begins after
    rows = []
    for _ in CLASS_COUNTS:
        cut = (best + above).argmax()[None]
        row = [cut]
        for origin in reversed(origins):
            row.append(origin.gather(0, row[-1]))
        row += [torch.zeros_like(cut)] * (len(CLASS_COUNTS) - len(row))
        rows.append(torch.cat(row[::-1]))
        best, origin = (best[:-1, None] + between[1:]).max(dim=0)
        origins.append(origin)
    return torch.stack(rows)
