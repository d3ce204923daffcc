"""Statistics of attention over the pairs of each frame (METHOD 3), all at once or kept up with a window that moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Smallest and largest value seen: what a min-max normalisation maps to 0 and 1. They stay on the values' device.

    Unknown (None) before anything was seen.
    """

    low: Tensor | None = None  # ()
    high: Tensor | None = None  # ()

    @staticmethod
    def of(x: Tensor) -> Extremes:
        return Extremes(*torch.aminmax(x))

    def merged(self, other: Extremes) -> Extremes:
        if self.low is None or other.low is None:
            return other if self.low is None else self
        return Extremes(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))

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
    _check_grid(statistic)
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

    def fused(name: str, channels_before: Extremes, means_before: Extremes) -> tuple[Tensor, Extremes, Extremes]:
        stack = getattr(statistics, name)  # (F, gh, gw, C)
        channels = channels_before.merged(Extremes.of(stack))
        means = channels.normalise(stack).mean(dim=-1)  # (F, gh, gw)
        tokens = means_before.merged(Extremes.of(means))
        return tokens.normalise(means), channels, tokens

    return _fused(statistics.frames, fused, before)


@dataclass(frozen=True)
class ChannelSummary:
    """All that `fuse` needs to know of one statistic of one frame: the mean over channels commutes with min-max."""

    mean: Tensor  # (gh, gw) over the channels
    extremes: Extremes  # over tokens and channels

    @staticmethod
    def of(statistic: Tensor) -> ChannelSummary:
        """statistic: (gh, gw, C)"""
        return ChannelSummary(statistic.mean(dim=-1), Extremes.of(statistic))


Summary = Mapping[str, ChannelSummary]  # by the names in STATISTICS


def fuse_summaries(
    summaries: Mapping[int, Summary], before: NormalisationScope
) -> tuple[AttentionMaps, NormalisationScope]:
    """As `fuse`, from the summaries of frames, by frame index: nothing with channels is touched again."""

    def fused(name: str, channels_before: Extremes, means_before: Extremes) -> tuple[Tensor, Extremes, Extremes]:
        parts = [summary[name] for summary in summaries.values()]
        lows = torch.stack([part.extremes.low for part in parts])  # (F,)
        highs = torch.stack([part.extremes.high for part in parts])
        channels = channels_before.merged(Extremes(lows.amin(), highs.amax()))
        means = channels.normalise(torch.stack([part.mean for part in parts]))  # (F, gh, gw)
        tokens = means_before.merged(Extremes.of(means))
        return tokens.normalise(means), channels, tokens

    return _fused(tuple(summaries), fused, before)


class RunningStatistics:
    """`aggregate` for a window that moves, at the cost of the pairs that came, changed or left since the last call."""

    def __init__(self) -> None:
        self._pairs: dict[Edge, PairAttention] = {}
        self._sums: dict[tuple[int, str], _PairSums] = {}  # by frame and role
        self._summaries: dict[int, Summary] = {}  # of the frames that did not change since they were computed

    def update(self, evidence: Mapping[Edge, PairAttention], frames: Iterable[int]) -> dict[int, Summary]:
        """Summaries of the frames that have at least two partners in either role, in the order given.

        evidence: every pair of the window; a pair counts as changed if it is another object than in the last call.
        frames: the window; whatever concerns others is forgotten.
        """
        frames = tuple(frames)
        wanted = {edge: pair for edge, pair in evidence.items() if edge[0] in frames or edge[1] in frames}
        self._forget(set(frames))
        for edge, pair in self._pairs.items():
            if wanted.get(edge) is not pair:
                self._count(edge, pair, -1)
        for edge, pair in wanted.items():
            if self._pairs.get(edge) is not pair:
                self._count(edge, pair, 1, frames)
        self._pairs = wanted
        return {frame: self._summary(frame) for frame in frames if self._known(frame)}

    def moments(self, frame: int) -> dict[str, Tensor]:
        """The four statistics (gh, gw, C) float32 of a frame that has at least two partners in either role."""
        source, reference = self._sums[frame, "source"].moments(), self._sums[frame, "reference"].moments()
        return dict(zip(STATISTICS, (*source, *reference), strict=True))

    def _count(self, edge: Edge, pair: PairAttention, sign: int, frames: Sequence[int] = ()) -> None:
        for frame, role in ((edge[1], "source"), (edge[0], "reference")):
            if sign > 0 and frame in frames and (frame, role) not in self._sums:
                self._sums[frame, role] = _PairSums(getattr(pair, role))
            if (sums := self._sums.get((frame, role))) is not None:
                sums.add(getattr(pair, role), sign)
                self._summaries.pop(frame, None)
                if sums.count == 0:
                    del self._sums[frame, role]  # and with it what rounding left

    def _known(self, frame: int) -> bool:
        sums = [self._sums.get((frame, role)) for role in ("source", "reference")]
        return all(item is not None and item.count >= MIN_PARTNERS for item in sums)

    def _summary(self, frame: int) -> Summary:
        if frame not in self._summaries:
            moments = self.moments(frame)
            self._summaries[frame] = {name: ChannelSummary.of(values) for name, values in moments.items()}
        return self._summaries[frame]

    def _forget(self, kept: set[int]) -> None:
        self._sums = {(frame, role): sums for (frame, role), sums in self._sums.items() if frame in kept}
        self._summaries = {frame: summary for frame, summary in self._summaries.items() if frame in kept}


class _PairSums:
    """Running sums of the maps of one frame in one role.

    Sums are taken of differences to the first map: the deviation between pairs is small against the logits themselves,
    so that the difference of two large sums would have no digits left in float32.
    """

    def __init__(self, first: Tensor):
        """first: (gh, gw, C). Raises ValueError as `repair_corner`."""
        self.count = 0
        self._origin = repair_corner(first)
        self._sum, self._squares = torch.zeros_like(self._origin), torch.zeros_like(self._origin)

    def add(self, statistic: Tensor, sign: int) -> None:
        """Count a map (gh, gw, C), or with sign -1 take it out again."""
        difference = statistic - self._origin
        torch.lerp(statistic[0, 1], statistic[1, 0], 0.5, out=difference[0, 0]).sub_(self._origin[0, 0])
        self._sum.add_(difference, alpha=sign)
        self._squares.addcmul_(difference, difference, value=sign)
        self.count += sign

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased standard deviation (gh, gw, C)."""
        offset = self._sum / self.count
        variance = torch.addcmul(self._squares, offset, self._sum, value=-1).clamp_(min=0).div_(self.count - 1)
        return self._origin + offset, variance.sqrt_()


def _moments(statistics: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Per frame a list of (gh, gw, C) -> mean and unbiased standard deviation, each (F, gh, gw, C)."""
    mean, std = [], []
    for of_frame in statistics:
        values = repair_corner(torch.stack(list(of_frame)))  # (pairs, gh, gw, C)
        mean.append(values.mean(dim=0))
        # Not Tensor.std, which is 20 times slower along the first dimension.
        std.append(((values - mean[-1]).square().sum(dim=0) / (len(values) - 1)).sqrt())
    return torch.stack(mean), torch.stack(std)


_FuseOne = Callable[[str, Extremes, Extremes], tuple[Tensor, Extremes, Extremes]]


def _fused(
    frames: tuple[int, ...], fuse_one: _FuseOne, before: NormalisationScope
) -> tuple[AttentionMaps, NormalisationScope]:
    maps, scope = {}, {}
    for name in STATISTICS:
        maps[name], *extremes = fuse_one(name, *getattr(before, name))
        scope[name] = tuple(extremes)
    return AttentionMaps(frames, **maps), NormalisationScope(**scope)


def _check_grid(statistic: Tensor) -> None:
    if min(statistic.shape[-3:-1]) < 2:
        raise ValueError(f"attention statistics need at least 2 x 2 tokens, got {tuple(statistic.shape[-3:-1])}")
