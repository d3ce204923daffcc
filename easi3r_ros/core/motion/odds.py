"""Motion cues that speak in log odds: sources add up, and what was believed of the frame before is carried along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.motion.base import MotionCue
from easi3r_ros.core.motion.masks import MOST_LOG_ODDS, estimate_from
from easi3r_ros.core.motion.memory import carried_along, flow_to_earlier
from easi3r_ros.core.types import Edge, Features, MotionEstimate, PairEvidence


class OddsSource(ABC):
    """One kind of evidence, as log odds of motion on cells of STEP x STEP pixels (see `two_view.flow`)."""

    name: str
    limits: tuple[float, float] = (-MOST_LOG_ODDS, MOST_LOG_ODDS)  # what it can add to others

    @abstractmethod
    def log_odds(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]
    ) -> dict[int, np.ndarray]:
        """(h // 2, w // 2) float32 by frame index; absent: nothing is known. Arguments as `MotionCue.estimate`.

        The same array as in the last call says that nothing changed.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget what was learned from earlier windows."""


class PairOdds(OddsSource):
    """A source whose answer about a frame is fused from what every pair that the frame is in says."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[torch.Tensor | None], np.ndarray]] = {}

    @abstractmethod
    def votes(self, index: int, evidence: Mapping[Edge, PairEvidence]) -> list[tuple[torch.Tensor | None, ...]]:
        """The maps that live on frame `index`, as many per pair as the source works on."""

    @abstractmethod
    def fused(self, votes: list[tuple[np.ndarray | None, ...]]) -> np.ndarray:
        """At least one vote -> (h // 2, w // 2) log odds."""

    def log_odds(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]
    ) -> dict[int, np.ndarray]:
        """As the base class. Frames whose maps are the same as in the last call are not computed again."""
        known: dict[int, tuple[list[torch.Tensor | None], np.ndarray]] = {}
        for index in features:
            votes, previous = self.votes(index, evidence), self._known.get(index)
            maps = [values for vote in votes for values in vote]
            if votes and previous is not None and identical(previous[0], maps):
                known[index] = previous
            elif votes:
                known[index] = maps, self.fused([tuple(map(_numpy, vote)) for vote in votes])
        self._known = known
        return {index: odds for index, (_, odds) in known.items()}

    def reset(self) -> None:
        self._known = {}


def identical(old: Sequence[object], new: Sequence[object]) -> bool:
    """Whether both hold the very same objects."""
    return len(old) == len(new) and all(x is y for x, y in zip(old, new, strict=True))


def _numpy(values: torch.Tensor | None) -> np.ndarray | None:
    return None if values is None else values.cpu().numpy()


@dataclass(frozen=True)
class _Belief:
    sources: tuple[np.ndarray, ...]
    inherited: np.ndarray | float  # from the frame before, as it was believed when this frame was new
    log_odds: np.ndarray  # (h', w') of the sources and of what was inherited
    estimate: MotionEstimate


class OddsCue(MotionCue):
    """The sum of its sources, each within its limits. The first one is needed, the others may be silent."""

    def __init__(self, name: str, config: MotionConfig, sources: Sequence[OddsSource]):
        self.name = name
        self._config = config
        self._sources = tuple(sources)
        # Memory is carried along the flow, which comes with the measured motion.
        self.needs_motion = config.memory > 0 or any(source.name == "geometry" for source in sources)
        self._known: dict[int, _Belief] = {}

    def estimate(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]
    ) -> dict[int, MotionEstimate]:
        """As the base class. Frames of which nothing new is said are not computed again."""
        said = {source.name: source.log_odds(features, evidence) for source in self._sources}
        needed = said[self._sources[0].name]
        self._known = {index: belief for index, belief in self._known.items() if index in needed}
        for index in features:  # oldest first: a frame inherits from those before it
            if index in needed:
                self._update(features[index], {k: odds[index] for k, odds in said.items() if index in odds}, evidence)
        return {index: self._known[index].estimate for index in features if index in self._known}

    def reset(self) -> None:
        self._known = {}
        for source in self._sources:
            source.reset()

    def _update(self, feature: Features, said: dict[str, np.ndarray], evidence: Mapping[Edge, PairEvidence]) -> None:
        index, sources = feature.index, tuple(said.values())
        known = self._known.get(index)
        if known is not None and identical(known.sources, sources):
            return
        inherited = known.inherited if known else self._inherited(index, evidence)
        limits = {source.name: source.limits for source in self._sources}
        total = sum(np.clip(odds, *limits[name]) for name, odds in said.items()) + inherited
        total = np.clip(total, -MOST_LOG_ODDS, MOST_LOG_ODDS)
        maps = said if len(self._sources) == 1 else {**said, self.name: total}
        estimate = estimate_from(feature, total, self._config.threshold, maps)
        self._known[index] = _Belief(sources, inherited, total, estimate)

    def _inherited(self, index: int, evidence: Mapping[Edge, PairEvidence]) -> np.ndarray | float:
        """What the frame before has to say about frame `index`."""
        earlier = flow_to_earlier(index, evidence, self._known) if self._config.memory else None
        if earlier is None:
            return 0.0
        partner, flow = earlier
        return self._config.memory * carried_along(self._known[partner].log_odds, flow)
