"""The one interface of all motion cues: evidence of pairs in, what moves in each frame out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from easi3r_ros.core.types import Edge, Features, MotionEstimate, PairEvidence


class MotionCue(ABC):
    name: str
    needs_motion: bool = False  # works on `PairMotion`, which has to be measured if the backbone does not give it

    @abstractmethod
    def estimate(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]
    ) -> dict[int, MotionEstimate]:
        """Motion in the frames of the window, by frame index.

        features: every frame of the window, oldest first. evidence: every pair of the window decoded so far.
        A frame about which the evidence says nothing yet is absent from the answer.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget what was learned from earlier windows."""
