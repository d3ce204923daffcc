"""The two steps of the published pipeline over a whole clip: pairs of a graph decoded, masks from them (METHOD 3-6).

Decoding again with the masks of the first pass is the second. The streaming counterpart is `pipeline`; this one is what
results of the paper are compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.motion.attention import (
    AttentionMotion,
    Grouping,
    attention_motion,
    attention_of,
)
from easi3r_ros.core.motion.clustering import Partition, best_threshold, cluster_tokens, partitions
from easi3r_ros.core.motion.statistics import WINDOW_SCOPE, FrameStatistics, aggregate, fuse
from easi3r_ros.core.types import Edge, Features, PairGeometry

PUBLISHED_CLUSTERS = 64


@dataclass(frozen=True)
class MotionAnalysis:
    """From attention statistics to masks, with every intermediate."""

    statistics: FrameStatistics
    motion: AttentionMotion
    candidates: tuple[Partition, ...]  # multi-Otsu with 2, 3, 4 classes
    threshold: float
    masks: dict[int, Tensor]  # frame index -> (h, w) bool, eq. 16


def decode_edges(
    backbone: Backbone,
    features: Mapping[int, Features],
    edges: Sequence[Edge],
    masks: Mapping[int, Tensor] | None = None,
) -> list[PairGeometry]:
    """One pass over the pairs. Raises ValueError if an edge names a frame that is not there."""
    if unknown := sorted({frame for edge in edges for frame in edge} - features.keys()):
        raise ValueError(f"the pair graph names frames that were not given: {unknown}")
    return backbone.decode([(features[a], features[b]) for a, b in edges], masks)


def analyse_motion(
    features: Mapping[int, Features], pairs: Iterable[PairGeometry], group: Grouping | None = None
) -> MotionAnalysis:
    """Masks from the attention of decoded pairs, exactly as published.

    group: the clustering; None: the published k-means. Raises ValueError if no frame has two partners in both roles.
    """
    statistics = aggregate(attention_of({pair.edge: pair.evidence for pair in pairs}), features)
    if statistics is None:
        raise ValueError("no frame has two partners both as source and as reference: use more frames or a denser graph")
    maps, _ = fuse(statistics, WINDOW_SCOPE)
    motion = attention_motion(maps, features, group or _published_clusters)
    candidates = tuple(partitions(motion.upsampled.cpu().numpy()))
    threshold = best_threshold(candidates)
    masks = {frame: motion.upsampled[i] > threshold for i, frame in enumerate(motion.frames)}  # eq. 16
    return MotionAnalysis(statistics, motion, candidates, threshold, masks)


def _published_clusters(tokens: Sequence[Tensor]) -> torch.Tensor:
    return cluster_tokens(tokens, PUBLISHED_CLUSTERS)
