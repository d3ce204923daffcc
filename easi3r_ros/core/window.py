"""The sliding window: features of the last frames, evidence of their pairs, and which pairs a new frame makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Set

from easi3r_ros.core.types import Edge, Features, PairEvidence, PairGeometry, Partners


def partners(stamps: Mapping[int, int], wanted: Partners, newest_ns: int, lost: Set[int] = frozenset()) -> set[int]:
    """Which earlier frames a new one is paired with.

    stamps: frame index -> stamp in nanoseconds, oldest first. Counted are frames that have a place in the world, or all
    if none has. A wish that reaches behind the oldest takes the oldest, so that the second frame already has a partner.
    """
    candidates = [index for index in stamps if index not in lost] or list(stamps)
    chosen = {candidates[-min(step, len(candidates))] for step in wanted.steps if candidates}
    for age in sorted(wanted.seconds):
        free = [index for index in candidates if index not in chosen]
        if free:
            # Of two equally near the newer one, whose image changed less.
            chosen.add(min(reversed(free), key=lambda index: abs((newest_ns - stamps[index]) * 1e-9 - age)))
    return chosen


class FrameWindow:
    """Holds the newest `size` frames. Whatever concerns a frame that left is dropped with it: memory is bounded."""

    def __init__(self, size: int):
        self.size = size
        self._frames: deque[Features] = deque(maxlen=size)
        self._evidence: dict[Edge, PairEvidence] = {}
        self._lost: set[int] = set()

    def add(self, features: Features) -> None:
        self._frames.append(features)
        kept = set(self.indices)
        self._lost &= kept
        self._evidence = {edge: value for edge, value in self._evidence.items() if kept.issuperset(edge)}

    def record(self, pairs: Iterable[PairGeometry]) -> None:
        """Keep the evidence of decoded pairs; a later pass over the same pair replaces the earlier one."""
        self._evidence.update((pair.edge, pair.evidence) for pair in pairs)

    def mark_lost(self, index: int) -> None:
        """Frame `index` has no place in the world: later frames are paired with others as long as there are any."""
        self._lost.add(index)

    def new_pairs(self, wanted: Partners) -> list[tuple[Features, Features]]:
        """Ordered pairs, both ways, of the newest frame with earlier ones: see `partners`."""
        *earlier, newest = self._frames
        stamps = {features.index: features.input.frame.stamp_ns for features in earlier}
        chosen = partners(stamps, wanted, newest.input.frame.stamp_ns, self._lost)
        others = [features for features in earlier if features.index in chosen]
        return [pair for other in reversed(others) for pair in ((newest, other), (other, newest))]

    def clear(self) -> None:
        self._frames.clear()
        self._evidence.clear()
        self._lost.clear()

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(features.index for features in self._frames)

    @property
    def features(self) -> Mapping[int, Features]:
        """By frame index, oldest first."""
        return {features.index: features for features in self._frames}

    @property
    def evidence(self) -> Mapping[Edge, PairEvidence]:
        return self._evidence
