"""What was believed about a frame, carried along the flow to a later one. No look ahead: it adds no delay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache

import cv2
import numpy as np

from easi3r_ros.core.two_view.flow import STEP
from easi3r_ros.core.types import Edge, PairEvidence

OUTSIDE = -1e4  # cells: nothing is there


def flow_to_earlier(
    index: int, evidence: Mapping[Edge, PairEvidence], known: Collection[int]
) -> tuple[int, np.ndarray] | None:
    """The nearest known frame before `index` and the flow (2, g, k) that leads there; None: there is none."""
    flows = {}
    for (a, b), pair in evidence.items():
        if pair.motion is None or index not in (a, b):
            continue
        partner, flow = (b, pair.motion.flow_a) if a == index else (a, pair.motion.flow_b)
        if partner < index and partner in known and flow is not None:
            flows[partner] = flow
    if not flows:
        return None
    nearest = max(flows)
    return nearest, flows[nearest].cpu().numpy()


def carried_along(log_odds: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """(g, k) the motion that an earlier frame's cells (g, k) give reason to expect; 0 where it was hidden or static.

    Only what speaks for motion is carried: a mover must not have to make up for the time when nothing was there.
    """
    u, v = np.fmax(_cells(*log_odds.shape) + flow / STEP, np.float32(OUTSIDE))  # fmax: not the NaN
    return cv2.remap(np.maximum(log_odds, 0), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=4)
def _cells(rows: int, columns: int) -> np.ndarray:
    """(2, rows, columns) float32 coordinates (u, v) of the cells."""
    return np.stack(np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)))
