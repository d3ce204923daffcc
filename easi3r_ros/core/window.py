"""The sliding window: features of the last frames, evidence of their pairs, and which pairs a new frame makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set

from easi3r_ros.core.types import Edge, Features, PairEvidence, PairGeometry


def partners(earlier: Sequence[int], offsets: Iterable[int], lost: Set[int] = frozenset()) -> set[int]:
    """Which of the `earlier` frames (oldest first) a new one is paired with: those `offsets` steps back.

    Steps are counted over frames that have a place in the world, or over all if none has. An offset that reaches behind
    the oldest takes the oldest, so that the second frame already has a partner.
    """
    candidates = [index for index in earlier if index not in lost] or list(earlier)
    return {candidates[-min(offset, len(candidates))] for offset in offsets} if candidates else set()


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

    def new_pairs(self, offsets: tuple[int, ...]) -> list[tuple[Features, Features]]:
        """Ordered pairs, both ways, of the newest frame with earlier ones: see `partners`."""
        newest = self._frames[-1]
        chosen = partners(self.indices[:-1], offsets, self._lost)
        others = [features for features in self._frames if features.index in chosen]
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
