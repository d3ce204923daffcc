"""Attention statistics: mean key logits of pairs -> mean and deviation per frame and role -> four maps per frame.

Easi3R eq. 6-8 and METHOD 3. Pure functions on tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_ros.core.types import Edge, PairAttention

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
