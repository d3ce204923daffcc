"""Motion from geometry: what the rigid motion of the camera does not explain, fused over the pairs of a frame.

The log odds are absolute: nothing is normalised by the frame's own extremes, so a static scene gives an empty mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch

from easi3r_ros.core.motion.masks import MOST_LOG_ODDS
from easi3r_ros.core.motion.odds import PairOdds
from easi3r_ros.core.two_view.flow import on_grid
from easi3r_ros.core.types import Edge, PairEvidence

# Fitted to rendered clips (static, walking people, turning and still camera).
EVEN_ODDS = 7.0  # standard deviations at which static and moving are equally likely: errors of flow have heavy tails
STEEPNESS = 3.0  # log odds per factor e of evidence
SMEAR = 3  # pixels, width of the brush that takes off what the patches of the flow add around a mover


class GeometryOdds(PairOdds):
    """From `PairMotion`, whoever measured it."""

    name = "geometry"

    def votes(
        self, index: int, evidence: Mapping[Edge, PairEvidence]
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Standard deviations and flow, one vote per partner: both orders of a pair say the same."""
        votes = {}
        for (a, b), pair in evidence.items():
            if pair.motion is not None and index in (a, b):
                motion = pair.motion
                votes[b if a == index else a] = (motion.a, motion.flow_a) if a == index else (motion.b, motion.flow_b)
        return list(votes.values())

    def fused(self, votes: list[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
        return fused_log_odds(votes)


def fused_log_odds(votes: list[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
    """(h', w') log odds of motion on cells.

    votes: (h, w) standard deviations and (2, h', w') flow of each pair. The fusion is the upper median: as much motion
    as at least half of the pairs see. A slow mover shows only over a long time, a fast one is lost by the flow over the
    same time, and what is just uncovered is seen from one side only. Where its flow is lost, a pair
    has no vote against motion.
    """
    descending = _sorted([_log_odds(sigmas) for sigmas, _ in votes])
    median = descending[0]  # of one or two
    if len(votes) > 2:
        voters = sum(1 if flow is None else np.isfinite(flow[0]).astype(np.uint8) for _, flow in votes)
        for k in range(1, (len(votes) + 1) // 2):
            median = np.where(voters > 2 * k, descending[k], median)
    return np.clip(median, -MOST_LOG_ODDS, MOST_LOG_ODDS)


def _log_odds(sigmas: np.ndarray) -> np.ndarray:
    cells = on_grid(cv2.erode(sigmas, np.ones((SMEAR, SMEAR), np.uint8)))
    return 0.5 * STEEPNESS * np.log((cells * cells + 1) / (EVEN_ODDS**2 + 1))


def _sorted(planes: list[np.ndarray]) -> list[np.ndarray]:
    """Descending, per element. Insertion of whole planes, for a handful of them far quicker than np.sort."""
    descending: list[np.ndarray] = []
    for plane in planes:
        for i, other in enumerate(descending):
            descending[i], plane = np.maximum(other, plane), np.minimum(other, plane)
        descending.append(plane)
    return descending
