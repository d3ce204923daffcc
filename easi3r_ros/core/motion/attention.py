"""The paper's motion cue: what DUSt3R's cross-attention ignores although it is textured moves (Easi3R eq. 9, 12-16)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from easi3r_ros.core.attention import (
    WINDOW_SCOPE,
    AttentionMaps,
    aggregate,
    fuse,
    normalise_per_frame,
)
from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.motion.base import MotionCue
from easi3r_ros.core.motion.clustering import TokenClusters, cluster_tokens, spread_cluster_means
from easi3r_ros.core.motion.threshold import Histogram, best_threshold, partitions
from easi3r_ros.core.types import Edge, Features, MotionEstimate, PairAttention, PairEvidence

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
