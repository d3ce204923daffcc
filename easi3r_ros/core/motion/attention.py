"""The paper's attention as one voice among others: it ranks, but has no magnitude, so it cannot decide alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.motion.clustering import (
    Histogram,
    TokenClusters,
    best_threshold,
    check_libraries,
    cluster_tokens,
    partitions,
    spread_cluster_means,
)
from easi3r_ros.core.motion.odds import MotionCue, OddsSource
from easi3r_ros.core.two_view.flow import on_grid
from easi3r_ros.core.types import Edge, Features, MotionEstimate, PairAttention, PairEvidence

EPSILON = 1e-6  # of every min-max normalisation, as published
MIN_PARTNERS = 2  # an unbiased standard deviation needs two


@dataclass(frozen=True)
class FrameStatistics:
    """Mean and unbiased standard deviation over the pairs of each frame, by the role that the frame plays in the pair.

    `source` statistics come from the pairs (x, t) (tower 1's keys), `reference` from the pairs (t, x) (tower 2's keys).
    """

    frames: tuple[int, ...]  # frame indices, F of them
    source_mean: Tensor  # (F, gh, gw, C) float32, C: decoder layers x heads
    source_std: Tensor  # (F, gh, gw, C)
    reference_mean: Tensor  # (F, gh, gw, C)
    reference_std: Tensor  # (F, gh, gw, C)


@dataclass(frozen=True)
class AttentionMaps:
    """The four statistics as one value per token, in [0, 1] over all frames (with scope "window")."""

    frames: tuple[int, ...]
    source_mean: Tensor  # (F, gh, gw) float32
    source_std: Tensor
    reference_mean: Tensor
    reference_std: Tensor


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest value seen: what a min-max normalisation maps to 0 and 1."""

    low: float = float("inf")
    high: float = float("-inf")

    @staticmethod
    def of(x: Tensor) -> Extremes:
        low, high = torch.aminmax(x)
        return Extremes(float(low), float(high))

    def merged(self, other: Extremes) -> Extremes:
        return Extremes(min(self.low, other.low), max(self.high, other.high))

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self.low) / (self.high - self.low + EPSILON)


@dataclass(frozen=True)
class NormalisationScope:
    """Extremes of the frames before the given ones, per statistic: (over channels, over channel means).

    The default knows nothing, so that normalisation spans exactly the frames given (scope "window", as published).
    Passing on the scope that `fuse` returned makes it span every frame since (scope "sequence").
    """

    source_mean: tuple[Extremes, Extremes] = (Extremes(), Extremes())
    source_std: tuple[Extremes, Extremes] = (Extremes(), Extremes())
    reference_mean: tuple[Extremes, Extremes] = (Extremes(), Extremes())
    reference_std: tuple[Extremes, Extremes] = (Extremes(), Extremes())


WINDOW_SCOPE = NormalisationScope()
STATISTICS = tuple(item.name for item in fields(NormalisationScope))


def repair_corner(statistic: Tensor) -> Tensor:
    """Token (0, 0) := mean of tokens (0, 1) and (1, 0), in every map of (..., gh, gw, C) (METHOD 3).

    Raises ValueError for a grid that lacks these neighbours.
    """
    if min(statistic.shape[-3:-1]) < 2:
        raise ValueError(f"attention statistics need at least 2 x 2 tokens, got {tuple(statistic.shape[-3:-1])}")
    repaired = statistic.clone()
    repaired[..., 0, 0, :] = (statistic[..., 0, 1, :] + statistic[..., 1, 0, :]) / 2
    return repaired


def aggregate(evidence: Mapping[Edge, PairAttention], frames: Iterable[int] | None = None) -> FrameStatistics | None:
    """Statistics of the frames that have at least two partners in either role (eq. 6-8); None if no frame has.

    The published computation gives NaN for a frame with a single partner, and with it for every other frame. Here such
    a frame is left out until its second partner comes.

    frames: the frames wanted; None: every frame of the evidence, in ascending order.
    """
    wanted = sorted({frame for edge in evidence for frame in edge}) if frames is None else frames
    as_source: dict[int, list[Tensor]] = {frame: [] for frame in wanted}
    as_reference: dict[int, list[Tensor]] = {frame: [] for frame in as_source}
    for (a, b), attention in evidence.items():
        if b in as_source:
            as_source[b].append(attention.source)
        if a in as_reference:
            as_reference[a].append(attention.reference)
    known = tuple(f for f in as_source if min(len(as_source[f]), len(as_reference[f])) >= MIN_PARTNERS)
    if not known:
        return None
    source_mean, source_std = _moments([as_source[frame] for frame in known])
    reference_mean, reference_std = _moments([as_reference[frame] for frame in known])
    return FrameStatistics(known, source_mean, source_std, reference_mean, reference_std)


def fuse(statistics: FrameStatistics, before: NormalisationScope) -> tuple[AttentionMaps, NormalisationScope]:
    """Four maps per frame, and the scope that includes these frames.

    before: `WINDOW_SCOPE` for normalisation over the given frames alone, or the scope of an earlier call.
    """
    maps, scope = {}, {}
    for name in STATISTICS:
        maps[name], scope[name] = _fuse_channels(getattr(statistics, name), getattr(before, name))
    return AttentionMaps(statistics.frames, **maps), NormalisationScope(**scope)


def normalise_per_frame(maps: Tensor) -> Tensor:
    """Min-max normalisation of each map of (F, gh, gw)."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low + EPSILON)


def _moments(statistics: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Per frame a list of (gh, gw, C) -> mean and unbiased standard deviation, each (F, gh, gw, C)."""
    mean, std = [], []
    for of_frame in statistics:
        values = repair_corner(torch.stack(list(of_frame)))  # (pairs, gh, gw, C)
        mean.append(values.mean(dim=0))
        # Not Tensor.std, which is 20 times slower along the first dimension.
        std.append(((values - mean[-1]).square().sum(dim=0) / (len(values) - 1)).sqrt())
    return torch.stack(mean), torch.stack(std)


def _fuse_channels(stack: Tensor, before: tuple[Extremes, Extremes]) -> tuple[Tensor, tuple[Extremes, Extremes]]:
    channels = before[0].merged(Extremes.of(stack))
    means = channels.normalise(stack).mean(dim=-1)  # (F, gh, gw, C) -> (F, gh, gw)
    tokens = before[1].merged(Extremes.of(means))
    return tokens.normalise(means), (channels, tokens)


Grouping = Callable[[Sequence[Tensor]], Tensor]  # tokens per frame, each (N, C) -> labels (F, N)


@dataclass(frozen=True)
class AttentionMotion:
    """What attention says about the motion in F frames, with every intermediate of the method."""

    maps: AttentionMaps
    dynamic: Tensor  # (F, gh, gw) float32 in [0, 1], eq. 9
    labels: Tensor  # (F, gh, gw) int64, eq. 13
    refined: Tensor  # (F, gh, gw) float32 in [0, 1], eq. 15
    upsampled: Tensor  # (F, h, w) float32 in [0, 1]

    @property
    def frames(self) -> tuple[int, ...]:
        return self.maps.frames


def dynamic_map(maps: AttentionMaps) -> Tensor:
    """(F, gh, gw) in [0, 1], each frame stretched to its own extremes."""
    product = (1 - maps.source_mean) * maps.source_std * maps.reference_mean * (1 - maps.reference_std)  # eq. 9
    return normalise_per_frame(product)


def attention_motion(maps: AttentionMaps, features: Mapping[int, Features], group: Grouping) -> AttentionMotion:
    """Clusters the tokens of the frames of `maps` and brings their scores to the size of the network image.

    group: the clustering; a function that returns known labels makes everything else reproducible without it.
    """
    dynamic = dynamic_map(maps)
    labels = group([features[frame].tokens for frame in maps.frames])  # (F, N)
    scores = spread_cluster_means(dynamic.flatten(1), labels)  # (F, N), eq. 14-15
    refined = normalise_per_frame(scores.view_as(dynamic))
    height, width = features[maps.frames[0]].input.image.shape[:2]
    upsampled = F.interpolate(refined[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    return AttentionMotion(maps, dynamic, labels.view_as(dynamic), refined, upsampled)


def estimates(motion: AttentionMotion, threshold: float) -> dict[int, MotionEstimate]:
    """Masks (eq. 16) and probabilities of the frames; a probability of 0.5 lies exactly at the threshold."""
    per_map = [(item.name, getattr(motion.maps, item.name)) for item in fields(motion.maps) if item.name != "frames"]
    per_map += [("dynamic", motion.dynamic)]
    return {
        frame: MotionEstimate(
            index=frame,
            probability=_probability(motion.upsampled[i], threshold),
            mask=motion.upsampled[i] > threshold,  # eq. 16
            evidence={"attention": motion.refined[i]} | {f"attention/{name}": maps[i] for name, maps in per_map},
        )
        for i, frame in enumerate(motion.frames)
    }


class AttentionCue(MotionCue):
    """Attention statistics to masks, over the frames of the window.

    `mode: paper` computes all of it from the given frames alone, exactly as published. `mode: stream` follows a window
    that moves: clusters keep their identity from call to call. With `scope: sequence`, normalisation and threshold span
    every frame since the last reset instead of the window.

    In both modes a frame with fewer than two partners in either role is absent from the answer (see `aggregate`).
    """

    name = "attention"

    def __init__(self, config: MotionConfig):
        """Raises MissingLibrary."""
        check_libraries()
        self._config = config
        self._clusters = TokenClusters(config.clusters)
        self._scope = WINDOW_SCOPE
        self._threshold = RunningThreshold()

    def estimate(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]
    ) -> dict[int, MotionEstimate]:
        """As the base class. Raises ValueError if a pair carries no attention statistics."""
        statistics = aggregate(attention_of(evidence), features)
        if statistics is None:
            return {}
        maps, scope = fuse(statistics, self._scope)
        motion = attention_motion(maps, features, self._group)
        if self._config.scope == "window":
            return estimates(motion, best_threshold(partitions(motion.upsampled.numpy())))
        self._scope = scope
        return estimates(motion, self._threshold.update(motion))

    def reset(self) -> None:
        self._clusters.reset()
        self._scope = WINDOW_SCOPE
        self._threshold = RunningThreshold()

    def _group(self, tokens: Sequence[Tensor]) -> Tensor:
        if self._config.mode == "paper":
            return cluster_tokens(tokens, self._config.clusters)
        return self._clusters.assign(tokens)


class RunningThreshold:
    """The threshold over every frame of a stream: each frame counts once, with the last map that it had."""

    def __init__(self) -> None:
        self._past = Histogram.of_unit(np.empty(0))  # frames that left the window
        self._present: dict[int, Histogram] = {}

    def update(self, motion: AttentionMotion) -> float:
        current = {frame: Histogram.of_unit(motion.upsampled[i].numpy()) for i, frame in enumerate(motion.frames)}
        self._past = sum((h for frame, h in self._present.items() if frame not in current), self._past)
        self._present = current
        return best_threshold(sum(current.values(), self._past).partitions())


def attention_of(evidence: Mapping[Edge, PairEvidence]) -> dict[Edge, PairAttention]:
    """The attention part of the evidence. Raises ValueError naming a pair that has none."""
    attention = {}
    for edge, pair in evidence.items():
        if pair.attention is None:
            raise ValueError(f"pair {edge} carries no attention: the attention cue needs a DUSt3R-architecture network")
        attention[edge] = pair.attention
    return attention


def _probability(values: Tensor, threshold: float) -> Tensor:
    """[0, 1] -> [0, 1], linear on both sides of the threshold, which goes to 0.5; zero if nothing can pass it."""
    if not np.isfinite(threshold):
        return torch.zeros_like(values)
    below = values / (2 * threshold)
    above = 0.5 + 0.5 * (values - threshold) / (1 - threshold)
    return torch.where(values > threshold, above, below)


SOFTEST = 1e-3  # probability: keeps log odds finite


class AttentionOdds(OddsSource):
    """Log odds of the attention cue's probability, 0 at its threshold.

    In a static scene something is above it all the same. With these limits geometry needs 4 standard deviations where
    attention points, 9 where it does not, instead of 7: static scenes stay empty, slow movers are found earlier.
    """

    name = "attention"
    limits = (-0.75, 1.5)

    def __init__(self, config: MotionConfig):
        self._cue = AttentionCue(config)

    def log_odds(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]
    ) -> dict[int, np.ndarray]:
        """As the base class. Raises ValueError if a pair carries no attention statistics."""
        estimates = self._cue.estimate(features, evidence)
        return {
            index: on_grid(torch.logit(estimate.probability, SOFTEST).cpu().numpy())
            for index, estimate in estimates.items()
        }

    def reset(self) -> None:
        self._cue.reset()
