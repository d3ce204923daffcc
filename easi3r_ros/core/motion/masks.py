"""The masks of the window's frames, as alignment and the second pass ask for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from easi3r_ros.core.engine import upload
from easi3r_ros.core.types import Edge, Features, MotionEstimate


class Masks(Mapping[int, torch.Tensor]):
    """By frame index, (h, w) bool of the frames that pairs are made of; of those alone, and when they are asked for."""

    def __init__(self, motion: Mapping[int, MotionEstimate], edges: Sequence[Edge]):
        wanted = {index for edge in edges for index in edge}
        self._motion = {index: estimate for index, estimate in motion.items() if index in wanted}

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._motion[index].mask

    def __iter__(self) -> Iterator[int]:
        return iter(self._motion)

    def __len__(self) -> int:
        return len(self._motion)

    @property
    def moving(self) -> set[int] | None:
        """The frames of which the mask is not empty; None: the host does not know."""
        cells = {index: estimate.cells for index, estimate in self._motion.items()}
        if any(known is None for known in cells.values()):
            return None
        return {index for index, known in cells.items() if known.any()}


def with_excluded(found: dict[int, MotionEstimate], window: Mapping[int, Features]) -> dict[int, MotionEstimate]:
    """The motion in each frame, and with it what somebody else said of it (`Frame.excluded`), as certain."""
    told = {index: f.input.excluded for index, f in window.items() if f.input.excluded is not None}
    if not told:
        return found
    out = dict(found)
    for index, excluded in told.items():
        estimate = found.get(index)
        mask = torch.from_numpy(excluded)
        if estimate is None:
            out[index] = MotionEstimate(index, mask.float(), mask)
        else:
            mask = upload(mask, estimate.mask.device)
            out[index] = replace(
                estimate,
                mask=estimate.mask | mask,
                probability=estimate.probability.masked_fill(mask, 1.0),
                cells=_with_cells(estimate.cells, excluded),
            )
    return out


def _with_cells(cells: np.ndarray | None, excluded: np.ndarray) -> np.ndarray | None:
    """(g, k) bool cells that move, or in which something is excluded; excluded: (h, w) bool."""
    if cells is None:
        return None
    share = cv2.resize(excluded.astype(np.float32), cells.shape[::-1], interpolation=cv2.INTER_AREA)
    return cells | (share > 0)
