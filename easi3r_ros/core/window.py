"""The sliding window: features of the last frames, evidence of their pairs, and which pairs a new frame makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from easi3r_ros.core.types import Edge, Features, PairEvidence, PairGeometry


class FrameWindow:
    """Holds the newest `size` frames. Whatever concerns a frame that left is dropped with it: memory is bounded."""

    def __init__(self, size: int):
        self.size = size
        self._frames: deque[Features] = deque(maxlen=size)
        self._evidence: dict[Edge, PairEvidence] = {}

    def add(self, features: Features) -> None:
        self._frames.append(features)
        kept = set(self.indices)
        self._evidence = {edge: value for edge, value in self._evidence.items() if kept.issuperset(edge)}

    def record(self, pairs: Iterable[PairGeometry]) -> None:
        """Keep the evidence of decoded pairs; a later pass over the same pair replaces the earlier one."""
        self._evidence.update((pair.edge, pair.evidence) for pair in pairs)

    def new_pairs(self, offsets: tuple[int, ...]) -> list[tuple[Features, Features]]:
        """Ordered pairs, both ways, of the newest frame with the frames `offsets` steps back.

        An offset that reaches behind the oldest frame takes the oldest, so that the second frame already has a pair.
        """
        newest = self._frames[-1]
        steps = {min(offset, len(self._frames) - 1) for offset in offsets} - {0}
        partners = [self._frames[-1 - step] for step in sorted(steps)]
        return [pair for partner in partners for pair in ((newest, partner), (partner, newest))]

    def clear(self) -> None:
        self._frames.clear()
        self._evidence.clear()

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
