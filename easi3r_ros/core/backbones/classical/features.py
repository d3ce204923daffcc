"""What the classical backbone keeps of a frame: its image for optical flow, and what its pairs have told so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from easi3r_ros.core.two_view.camera import FocalBelief
from easi3r_ros.core.two_view.flow import SMALLEST_SIDE
from easi3r_ros.core.two_view.refine import Motion
from easi3r_ros.core.two_view.tracked import TrackedImage
from easi3r_ros.core.types import Features, NetworkInput

CELL = 8  # pixels per side of a token
STRONG_GRADIENT = 50.0  # grey levels per pixel


@dataclass
class Memo:
    """Results that later calls use again; they leave with the frame. Keys are the partner's frame index."""

    motions: dict[int, Motion | None] = field(default_factory=dict)  # to a later frame, by the first pass
    focal: FocalBelief | None = None  # of this frame, once it has been paired with an earlier one


@dataclass(frozen=True)
class ClassicalFeatures(Features):
    tracked: TrackedImage
    memo: Memo = field(default_factory=Memo)


def extract(image: NetworkInput) -> ClassicalFeatures:
    """Raises ValueError for an image too small for optical flow."""
    height, width = image.image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"optical flow needs at least {SMALLEST_SIDE} pixels on the short side, the image is {width} x {height}: "
            "raise preprocess.long_side"
        )
    tracked = TrackedImage.of(image)
    grid = (height // CELL, width // CELL)
    return ClassicalFeatures(image, _tokens(image.image, tracked.structure, grid), grid, tracked)


def _tokens(image: np.ndarray, structure: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """(gh * gw, 6) appearance of each cell, each number about 0 to 1: Lab colour and gradients along x, y and both."""
    cells = cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA).reshape(*grid, 3)
    lab = cv2.cvtColor(cells, cv2.COLOR_RGB2LAB).astype(np.float32) / 255
    xx, xy, yy = (cv2.resize(plane, grid[::-1], interpolation=cv2.INTER_AREA).reshape(grid) for plane in structure)
    gradients = np.stack([np.sqrt(xx) / STRONG_GRADIENT, np.sqrt(yy) / STRONG_GRADIENT, xy / np.sqrt(xx * yy + 1)], -1)
    return torch.from_numpy(np.concatenate([lab, gradients], -1).reshape(grid[0] * grid[1], 6))  # (gh, gw, 6) -> (N, 6)
