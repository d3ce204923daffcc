"""Earlier frames as new ones are attached to them, and the pixels that are looked at for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from easi3r_ros.core.geometry import unproject
from easi3r_ros.core.types import AlignedFrame, TrackingState

PLACED = (TrackingState.TRACKING, TrackingState.DEGRADED)
SAMPLES = 1500  # pixels per pair from which poses and scales are estimated: more would not make them better


@dataclass
class Anchor:
    """An aligned frame. Its depth and pose are fixed; what is believed to move in it may still be corrected."""

    frame: AlignedFrame
    static: torch.Tensor  # (h, w) float32 weight, 1 where static

    @cached_property
    def points(self) -> torch.Tensor:
        """(h, w, 3) float32 in its own camera; NaN where its depth is not known."""
        return unproject(self.frame.depth, torch.from_numpy(self.frame.K))

    @cached_property
    def known(self) -> bool:
        """Whether it has any depth to attach to."""
        return bool((self.frame.confidence > 1.0).any())

    @cached_property
    def information(self) -> torch.Tensor:
        """(h, w) weight of its depth."""
        return information(self.frame.confidence)

    @property
    def world_from_cam(self) -> torch.Tensor:
        """(4, 4) float64."""
        return torch.from_numpy(self.frame.world_from_cam)


def information(confidence: torch.Tensor) -> torch.Tensor:
    """Weight of a pointmap's pixel: log(conf), as in the alignment objective (METHOD 7); 0: nothing is known."""
    return confidence.clamp(min=1.0).log()


def sampling(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Index of a regular sub-grid of about SAMPLES pixels of an (h, w) map."""
    stride = max(1, round((shape[0] * shape[1] / SAMPLES) ** 0.5))
    return (slice(stride // 2, None, stride),) * 2
