"""The published pipeline over a whole clip: a graph of pairs, two passes over it, masks from the second (METHOD 3-6).

The streaming counterpart is the product's pipeline; this one is what results of the paper are compared with.
"""

from __future__ import annotations

import re
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


def swin_edges(frames: int, window: int, cyclic: bool = False) -> list[Edge]:
    """Every frame with the next `window` frames, both orders."""
    return offset_edges(frames, range(1, window + 1), cyclic)


def swin_stride_edges(frames: int, window: int, cyclic: bool = False) -> list[Edge]:
    """Every frame with those 1, 3, 5, ... frames later (`window` of them), both orders: the published video graph."""
    return offset_edges(frames, range(1, 2 * window, 2), cyclic)


def complete_edges(frames: int) -> list[Edge]:
    """All ordered pairs."""
    return offset_edges(frames, range(1, frames))


def offset_edges(frames: int, offsets: Iterable[int], cyclic: bool = False) -> list[Edge]:
    """Ordered pairs of frames that are one of `offsets` apart: all with a < b, then the same with a > b.

    cyclic: the first frame follows the last.
    """
    offsets = tuple(offsets)
    pairs: set[Edge] = set()
    for a in range(frames):
        for offset in offsets:
            b = (a + offset) % frames if cyclic else a + offset
            if b < frames and a != b:
                pairs.add((min(a, b), max(a, b)))
    # Published results list their pairs in the order of a Python set; keeping it makes them comparable entry by entry.
    forward = list(pairs)
    return forward + [(b, a) for a, b in forward]


def named_edges(name: str, frames: int) -> list[Edge]:
    """The graph that the published code calls `name`: complete, swin-K or swinstride-K, perhaps with -noncyclic.

    Raises ValueError for other names.
    """
    if name == "complete":
        return complete_edges(frames)
    match = re.fullmatch(r"(swin|swinstride)-(\d+)(-noncyclic)?", name)
    if not match:
        raise ValueError(f"unknown pair graph '{name}'; known: complete, swin-K, swinstride-K, each with -noncyclic")
    build = swin_edges if match[1] == "swin" else swin_stride_edges
    return build(frames, int(match[2]), cyclic=match[3] is None)


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
