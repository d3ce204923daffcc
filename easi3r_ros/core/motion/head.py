"""Motion as a network's own head sees it, which was trained to tell it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from easi3r_ros.core.motion.odds import MOST_LOG_ODDS, PairOdds
from easi3r_ros.core.two_view.flow import on_grid
from easi3r_ros.core.types import Edge, PairEvidence


class HeadOdds(PairOdds):
    """Mean logit over the pairs of a frame, in both roles: each is a guess at the same thing."""

    name = "head"

    def votes(self, index: int, evidence: Mapping[Edge, PairEvidence]) -> list[tuple[torch.Tensor]]:
        pairs = [(a, pair.head) for (a, b), pair in evidence.items() if pair.head is not None and index in (a, b)]
        return [(head.a if a == index else head.b,) for a, head in pairs]

    def fused(self, votes: list[tuple[np.ndarray]]) -> np.ndarray:
        mean = np.mean([logits for (logits,) in votes], axis=0, dtype=np.float32)
        return np.clip(on_grid(mean), -MOST_LOG_ODDS, MOST_LOG_ODDS)
