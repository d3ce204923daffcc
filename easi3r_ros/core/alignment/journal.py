"""What the alignment of a whole recording needs of its pairs: a few hundred pixels of each, kept as they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from easi3r_ros.core.alignment.anchor import information
from easi3r_ros.core.alignment.placement import (
    MAX_PIXEL_NOISE,
    PAIR_CONFIDENCE_FLOOR,
    pair_intrinsics,
    pixel_noise,
)
from easi3r_ros.core.geometry import pixel_grid, project
from easi3r_ros.core.types import AlignedFrame, PairGeometry, TrackingState

POINTS = 400  # per frame, whatever its size: 5 kB per pair and 3 kB per frame


@dataclass(frozen=True)
class Sighting:
    """Where a pair puts the points of its view b in the image of its view a."""

    observer: int  # frame a
    pixels: torch.Tensor  # (N, 2) float32
    weight: torch.Tensor  # (N,) float32 >= 0, movers not yet left out


@dataclass
class Entry:
    """One frame as the incremental alignment left it, at N pixels of a regular grid."""

    world_from_cam: np.ndarray  # (4, 4)
    covariance: np.ndarray  # (6, 6)
    K: np.ndarray  # (3, 3) pixels of the network image
    focal_known: bool
    state: TrackingState
    pixels: torch.Tensor  # (N, 2) float32
    depth: torch.Tensor  # (N,) float32; NaN: not known
    static: torch.Tensor  # (N,) float32, 1 where static
    sightings: list[Sighting] = field(default_factory=list)  # of its points, by other frames


class PairJournal:
    """Grows with the recording: about 35 kB per frame with six pairs."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}  # by frame index

    def add(
        self,
        pairs: Sequence[PairGeometry],
        masks: Mapping[int, torch.Tensor],
        aligned: AlignedFrame,
        focal_known: bool,
    ) -> None:
        """A new frame, as the incremental alignment placed it, and its pairs with earlier ones.

        masks: frame index -> (h, w) bool, True on movers; those of earlier frames replace what was known.
        """
        step = grid(tuple(aligned.depth.shape))
        pixels = pixel_grid(*aligned.depth.shape)[step].reshape(-1, 2)
        self.entries[aligned.index] = Entry(
            world_from_cam=aligned.world_from_cam,
            covariance=aligned.covariance,
            K=aligned.K,
            focal_known=focal_known,
            state=aligned.state,
            pixels=pixels,
            depth=aligned.depth[step].reshape(-1).float().cpu().clone(),
            static=torch.ones(len(pixels)),
        )
        for index in masks.keys() & self.entries.keys():
            self.entries[index].static = 1.0 - masks[index][step].reshape(-1).float().cpu()
        for pair in pairs:
            seen = sighting(pair, aligned.K)
            if seen is not None and pair.b in self.entries:
                self.entries[pair.b].sightings.append(seen)


def grid(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Index of a regular sub-grid of about POINTS pixels of an (h, w) map."""
    stride = max(1, round((shape[0] * shape[1] / POINTS) ** 0.5))
    return (slice(stride // 2, None, stride),) * 2


def sighting(pair: PairGeometry, K: np.ndarray) -> Sighting | None:
    """None if the pair misplaces its own pixels: it is garbage.

    K: (3, 3), of which the principal point and the aspect ratio count; the focal length is the pair's own.
    """
    step = grid(tuple(pair.points_a.shape[:2]))
    other = pair.points_b[step].cpu()
    believed = pair_intrinsics(pair, torch.from_numpy(K), step)
    if not pixel_noise(pair, believed, step) <= MAX_PIXEL_NOISE * K[0, 0]:
        return None
    # A pair without parallax knows no depth but still where pixels are.
    weight = (information(pair.conf_b[step].cpu()) + PAIR_CONFIDENCE_FLOOR) * (other[..., 2] > 0)
    pixels = torch.nan_to_num(project(other, believed))
    return Sighting(pair.a, pixels.reshape(-1, 2), torch.nan_to_num(weight).reshape(-1).float())
