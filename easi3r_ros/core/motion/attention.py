"""The paper's attention as one voice among others: it ranks, but has no magnitude, so it cannot decide alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.engine import Landing, Parcel, fetch
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
from easi3r_ros.core.motion.statistics import (
    EPSILON,
    WINDOW_SCOPE,
    AttentionMaps,
    NormalisationScope,
    RunningStatistics,
    aggregate,
    fuse,
    fuse_summaries,
)
from easi3r_ros.core.two_view.flow import STEP, measured_size
from easi3r_ros.core.types import Deferred, Edge, Features, MotionEstimate, PairAttention, PairEvidence

Grouping = Callable[[Sequence[Tensor]], Tensor]  # tokens per frame, each (N, C) -> labels (F, N)


@dataclass(frozen=True)
class AttentionMotion:
    """What attention says about the motion in F frames, with every intermediate of the method."""

    maps: AttentionMaps
    dynamic: Tensor  # (F, gh, gw) float32 in [0, 1], eq. 9
    labels: Tensor  # (F, gh, gw) int64, eq. 13
    refined: Tensor  # (F, gh, gw) float32 in [0, 1], eq. 15
    size: tuple[int, int]  # (h, w) that scores are brought to

    @property
    def frames(self) -> tuple[int, ...]:
        return self.maps.frames

    @cached_property
    def upsampled(self) -> Tensor:
        """(F, h, w) float32 in [0, 1]"""
        return upsample(self.refined, self.size)

    @property
    def sampled(self) -> Tensor:
        """(F, h / 2, w / 2) every second pixel of that: a quarter of the work, and hardly another threshold."""
        return self.upsampled[:, ::STEP, ::STEP]


def upsample(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, gh, gw) -> (F, *size), bilinear."""
    return F.interpolate(scores[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def dynamic_map(maps: AttentionMaps) -> Tensor:
    """(F, gh, gw) in [0, 1], each frame stretched to its own extremes."""
    product = (1 - maps.source_mean) * maps.source_std * maps.reference_mean * (1 - maps.reference_std)  # eq. 9
    return normalise_per_frame(product)


def normalise_per_frame(maps: Tensor) -> Tensor:
    """Min-max normalisation of each map of (F, gh, gw)."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low + EPSILON)


def attention_motion(
    maps: AttentionMaps,
    features: Mapping[int, Features],
    group: Grouping,
    clusters: int | None = None,
    size: tuple[int, int] | None = None,
) -> AttentionMotion:
    """Clusters the tokens of the frames of `maps` and brings their scores to the size of the network image.

    group: the clustering; a function that returns known labels makes everything else reproducible without it.
    clusters: the labels are below it; None: looked up. size: (h, w) of another image to bring the scores to.
    """
    dynamic = dynamic_map(maps)
    labels = group([features[frame].tokens for frame in maps.frames])  # (F, N)
    scores = spread_cluster_means(dynamic.flatten(1), labels, clusters)  # (F, N), eq. 14-15
    refined = normalise_per_frame(scores.view_as(dynamic))
    size = size or features[maps.frames[0]].input.image.shape[:2]
    return AttentionMotion(maps, dynamic, labels.view_as(dynamic), refined, size)


def estimates(motion: AttentionMotion, threshold: Tensor | float) -> dict[int, MotionEstimate]:
    """Masks (eq. 16) and probabilities of the frames; a probability of 0.5 lies exactly at the threshold."""
    per_map = [(item.name, getattr(motion.maps, item.name)) for item in fields(motion.maps) if item.name != "frames"]
    per_map += [("dynamic", motion.dynamic)]

    def mask(row: int) -> Tensor:
        return motion.upsampled[row] > threshold  # eq. 16

    def probability(row: int) -> Tensor:
        return _probability(motion.upsampled[row], threshold)

    return {
        frame: MotionEstimate(
            index=frame,
            probability=Deferred(partial(probability, i)),
            mask=Deferred(partial(mask, i)),
            evidence={"attention": motion.refined[i]} | {f"attention/{name}": maps[i] for name, maps in per_map},
        )
        for i, frame in enumerate(motion.frames)
    }


class AttentionJudge:
    """From the evidence of a window to scores on pixels and the threshold above which they count as motion.

    `mode: paper` computes all of it from the given frames alone, exactly as published, with scikit-learn and
    scikit-image on the host. `mode: stream` follows a window that moves, on the tokens' device: sums over pairs are
    kept up, clusters keep their identity from call to call, the threshold comes from a histogram. With
    `scope: sequence`, normalisation and threshold span every frame since the last reset instead of the window.

    In both modes a frame with fewer than two partners in either role is left out (see `aggregate`).
    """

    def __init__(self, config: MotionConfig):
        """Raises MissingLibrary if `mode: paper` lacks one."""
        if config.mode == "paper":
            check_libraries()
        self._config = config
        self.reset()

    def reset(self) -> None:
        """Forget what was learned from earlier windows."""
        self._statistics = RunningStatistics()
        self._clusters = TokenClusters(self._config.clusters)
        self._scope = WINDOW_SCOPE
        self._threshold = RunningThreshold()

    def judge(
        self,
        features: Mapping[int, Features],
        evidence: Mapping[Edge, PairEvidence],
        size: tuple[int, int] | None = None,
    ) -> tuple[AttentionMotion, Tensor | float] | None:
        """None if no frame is known well enough. size: (h, w) of the scores, None: of the network image.

        Raises ValueError if a pair carries no attention statistics.
        """
        paper = self._config.mode == "paper"
        fused = (self._published_maps if paper else self._running_maps)(attention_of(evidence), features)
        if fused is None:
            return None
        maps, scope = fused
        if paper:
            motion = attention_motion(maps, features, self._published_groups, None, size)
        else:
            motion = attention_motion(maps, features, self._clusters.assign, self._config.clusters, size)
        if self._config.scope == "sequence":
            self._scope = scope
            return motion, self._threshold.update(motion)
        if paper:
            return motion, best_threshold(partitions(fetch(motion.upsampled, "published").numpy()))
        return motion, Histogram.of(motion.upsampled, motion.sampled if size is None else None).best_threshold()

    def _published_maps(
        self, attention: Mapping[Edge, PairAttention], features: Mapping[int, Features]
    ) -> tuple[AttentionMaps, NormalisationScope] | None:
        statistics = aggregate(attention, features)
        return None if statistics is None else fuse(statistics, self._scope)

    def _running_maps(
        self, attention: Mapping[Edge, PairAttention], features: Mapping[int, Features]
    ) -> tuple[AttentionMaps, NormalisationScope] | None:
        summaries = self._statistics.update(attention, features)
        return fuse_summaries(summaries, self._scope) if summaries else None

    def _published_groups(self, tokens: Sequence[Tensor]) -> Tensor:
        return cluster_tokens(tokens, self._config.clusters)


class AttentionCue(MotionCue):
    """Attention statistics to masks, over the frames of the window: see `AttentionJudge`."""

    name = "attention"

    def __init__(self, config: MotionConfig):
        self._judge = AttentionJudge(config)

    def estimate(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], again: bool = False
    ) -> dict[int, MotionEstimate]:
        """As the base class. Raises ValueError if a pair carries no attention statistics."""
        judged = self._judge.judge(features, evidence)
        return {} if judged is None else estimates(*judged)

    def reconfigure(self, config: MotionConfig) -> None:
        """None of its settings is live."""

    def reset(self) -> None:
        self._judge.reset()


class RunningThreshold:
    """The threshold over every frame of a stream: each frame counts once, with the last map that it had."""

    def __init__(self) -> None:
        self._past: Histogram | None = None  # frames that left the window
        self._present: dict[int, Histogram] = {}

    def update(self, motion: AttentionMotion) -> Tensor:
        """() float32"""
        current = {frame: Histogram.of_unit(motion.sampled[i]) for i, frame in enumerate(motion.frames)}
        gone = [histogram for frame, histogram in self._present.items() if frame not in current]
        self._past, self._present = _total([self._past, *gone]), current
        return _total([self._past, *current.values()]).best_threshold()


def _total(histograms: Sequence[Histogram | None]) -> Histogram | None:
    known = [histogram for histogram in histograms if histogram is not None]
    return sum(known[1:], known[0]) if known else None


def attention_of(evidence: Mapping[Edge, PairEvidence]) -> dict[Edge, PairAttention]:
    """The attention part of the evidence. Raises ValueError naming a pair that has none."""
    attention = {}
    for edge, pair in evidence.items():
        if pair.attention is None:
            raise ValueError(f"pair {edge} carries no attention: the attention cue needs a DUSt3R-architecture network")
        attention[edge] = pair.attention
    return attention


LEAST_SHARE = 1e-6  # of [0, 1] above a threshold


def _probability(values: Tensor, threshold: Tensor | float) -> Tensor:
    """[0, 1] -> [0, 1], linear on both sides of the threshold, which goes to 0.5; zero if nothing can pass it."""
    threshold = torch.as_tensor(threshold)
    below = (values * (0.5 / threshold)).clamp_(max=0.5)
    above = ((values - threshold) * (0.5 / (1 - threshold).clamp(min=LEAST_SHARE))).clamp_(min=0)
    return below.add_(above)


SOFTEST = 1e-3  # probability: keeps log odds finite


class AttentionOdds(OddsSource):
    """Log odds of the attention cue's probability, 0 at its threshold.

    In a static scene something is above it all the same. With these limits geometry needs 4 standard deviations where
    attention points, 9 where it does not, instead of 7: static scenes stay empty, slow movers are found earlier.
    """

    name = "attention"
    limits = (-0.75, 1.5)

    def __init__(self, config: MotionConfig):
        self._judge = AttentionJudge(config)
        self._said: dict[int, np.ndarray] = {}
        self._offered: tuple[tuple[int, ...], Landing] | None = None

    def offer(self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], parcel: Parcel) -> None:
        """As the base class. Raises ValueError if a pair carries no attention statistics."""
        # Scores vary from token to token, 16 pixels: cells say as much of them as pixels, at a fraction of the cost.
        height, width = next(iter(features.values())).input.image.shape[:2] if features else (STEP, STEP)
        width, height = measured_size((width, height))
        judged = self._judge.judge(features, evidence, (height // STEP, width // STEP))
        self._said, self._offered = {}, None
        if judged is not None:
            motion, threshold = judged
            odds = torch.logit(_probability(motion.upsampled, threshold), SOFTEST)
            self._offered = motion.frames, parcel.add(odds)

    def log_odds(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], again: bool = False
    ) -> dict[int, np.ndarray]:
        """As the base class; a second pass leaves what attention says of these frames as it is."""
        if self._offered is None and not again:
            self.offer(features, evidence, Parcel("motion"))
        if self._offered is not None:
            frames, landing = self._offered
            self._said = dict(zip(frames, landing.open().numpy(), strict=True))
            self._offered = None
        return self._said

    def reset(self) -> None:
        self._judge.reset()
        self._said, self._offered = {}, None
