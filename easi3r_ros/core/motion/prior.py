"""The paper's attention as one voice among others: it ranks, but has no magnitude, so it cannot decide alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.motion.attention import AttentionCue
from easi3r_ros.core.motion.odds import OddsSource
from easi3r_ros.core.two_view.flow import on_grid
from easi3r_ros.core.types import Edge, Features, PairEvidence

SOFTEST = 1e-3  # probability: keeps log odds finite


class AttentionOdds(OddsSource):
    """Log odds of the attention cue's probability, 0 at its threshold.

    In a static scene something is above it all the same. With these limits geometry needs 4 standard deviations where
    attention points, 9 where it does not, instead of 7: static scenes stay empty, slow movers are found earlier.
    """

    name = "attention"
    limits = (-0.75, 1.5)

    def __init__(self, config: MotionConfig):
        self._cue = AttentionCue(config)

    def log_odds(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]
    ) -> dict[int, np.ndarray]:
        """As the base class. Raises ValueError if a pair carries no attention statistics."""
        estimates = self._cue.estimate(features, evidence)
        return {
            index: on_grid(torch.logit(estimate.probability, SOFTEST).cpu().numpy())
            for index, estimate in estimates.items()
        }

    def reset(self) -> None:
        self._cue.reset()
