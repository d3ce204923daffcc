"""What moved in the last frame, where the flow says that it went: the new frame's mask before that frame is decoded."""

from __future__ import annotations

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from easi3r_ros.core.engine import upload
from easi3r_ros.core.two_view.flow import Flow
from easi3r_ros.core.types import Deferred, MotionEstimate


def carried_motion(index: int, earlier: MotionEstimate, flow: Flow) -> MotionEstimate:
    """In frame `index`, from an earlier frame's. flow: from the frame to the earlier one."""
    probability = earlier.probability
    sampling = upload(_positions(flow), probability.device)
    carried = _sampled(probability, sampling)
    inside = _sampled(earlier.mask.float(), sampling)
    return MotionEstimate(
        index=index,
        probability=carried,
        mask=inside > 0.5,
        cells=Deferred(lambda: None if earlier.cells is None else _carried_cells(earlier.cells, flow)),
    )


def _positions(flow: Flow) -> np.ndarray:
    """(g, k, 2) float32: where the nodes come from, from -1 to 1 over the image, as grid_sample wants it."""
    width, height = flow.size
    u, v = flow.target
    return np.stack([(2 * u + 1) / width - 1, (2 * v + 1) / height - 1], -1).astype(np.float32)


def _sampled(values: Tensor, positions: Tensor) -> Tensor:
    """(h, w) float32 at (g, k, 2) positions, brought to all pixels (h, w); 0 from outside of the image."""
    size = tuple(values.shape)
    dense = F.interpolate(positions.movedim(-1, 0)[None], size, mode="bilinear", align_corners=False)[0].movedim(0, -1)
    return F.grid_sample(values[None, None], dense[None], padding_mode="zeros", align_corners=False)[0, 0]


def _carried_cells(cells: np.ndarray, flow: Flow) -> np.ndarray:
    """(g, k) bool"""
    width, height = flow.size
    rows, columns = cells.shape
    u = (flow.target[0] + 0.5) * np.float32(columns / width) - 0.5
    v = (flow.target[1] + 0.5) * np.float32(rows / height) - 0.5
    moved = cv2.remap(cells.astype(np.float32), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return moved > 0.5
