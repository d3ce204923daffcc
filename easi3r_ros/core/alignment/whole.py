"""A whole recording aligned at once, after the incremental alignment went through it frame by frame.

A journal keeps a few hundred pixels of every pair as they come in; bundle adjustment then takes them all together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from easi3r_ros.core.alignment.bundle import Bundle, BundleState, Prior, Sightings, adjust
from easi3r_ros.core.alignment.placement import (
    MAX_PIXEL_NOISE,
    PAIR_CONFIDENCE_FLOOR,
    information,
    is_known,
    pair_intrinsics,
    pair_sample,
    pixel_noise,
    world_covariance,
)
from easi3r_ros.core.engine import fetch
from easi3r_ros.core.geometry import pixel_grid, project
from easi3r_ros.core.types import AlignedFrame, FrameResult, PairGeometry, TrackingState

POINTS = 400  # per frame, whatever its size: 5 kB per pair and 3 kB per frame
# Log depth, from frame to frame carried and fused: it holds the scale, which the few frames that see the same points
# know worse. From 0.01 to 0.1 the trajectories hardly differ.
DEPTH_SIGMA = 0.02
# Log focal length that nobody gave, as the pairs of one frame estimate it. Sightings alone would mistake an error of
# the principal point, which nobody gave either, for a focal length: half a pixel of 96 becomes 7 %, with this 0.1 %.
FOCAL_SIGMA = 0.015
ZOOM = 0.01  # relative: focal lengths that differ by more are not one camera's


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
            depth=fetch(aligned.depth[step].reshape(-1).float(), "journal").clone(),
            static=torch.ones(len(pixels)),
        )
        for index in masks.keys() & self.entries.keys():
            self.entries[index].static = 1.0 - fetch(masks[index][step].reshape(-1).float(), "journal")
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
    sample = pair_sample(pair, grid(tuple(pair.points_a.shape[:2])))
    believed = pair_intrinsics(sample, torch.from_numpy(K))
    if not pixel_noise(sample, believed) <= MAX_PIXEL_NOISE * K[0, 0]:
        return None
    # A pair without parallax knows no depth but still where pixels are.
    weight = (information(sample.conf_b) + PAIR_CONFIDENCE_FLOOR) * (sample.points_b[..., 2] > 0)
    pixels = torch.nan_to_num(project(sample.points_b, believed))
    return Sighting(pair.a, pixels.reshape(-1, 2), torch.nan_to_num(weight).reshape(-1).float())


class GlobalAlignmentError(ValueError):
    """A recording that cannot be aligned as a whole; the message says why and what to do."""


@dataclass(frozen=True)
class RefinedFrame:
    """What changes of a frame's result."""

    world_from_cam: np.ndarray  # (4, 4) float64
    covariance: np.ndarray  # (6, 6) float64, given the other frames
    depth_factor: float  # by which its depth grows
    focal_factor: float  # by which its focal length grows; 1 if it was known
    found: bool = False  # it had no pose frame by frame, and has one now

    def applied(self, result: FrameResult) -> FrameResult:
        K = result.K.copy()
        K[:2, :2] *= self.focal_factor
        depth = result.depth * np.float32(self.depth_factor)
        new = replace(result, world_from_cam=self.world_from_cam, covariance=self.covariance, depth=depth, K=K)
        return replace(new, state=TrackingState.TRACKING, reason="") if self.found else new


@dataclass(frozen=True)
class GlobalAlignment:
    """The outcome. World: the incremental one's, and its unit."""

    frames: dict[int, RefinedFrame]
    focal: float  # pixels of the network image
    moved: float  # world units; median over the frames
    error_before: float  # radians; median reprojection error
    error: float  # the same after


def align_globally(journal: PairJournal) -> GlobalAlignment:
    """Poses of all frames, depth of their points and, if nobody knows it, one shared focal length.

    Raises GlobalAlignmentError if nothing was tracked, or the focal length changes.
    """
    entries = journal.entries
    _check(entries)
    with torch.inference_mode():
        bundle = _adjusted(entries)
    return _outcome(entries, bundle)


def _check(entries: Mapping[int, Entry]) -> None:
    if len(entries) < 2:
        raise GlobalAlignmentError("a single frame cannot be aligned as a whole: leave out --global")
    if not any(entry.state.has_pose for entry in entries.values()):
        raise GlobalAlignmentError(
            "no frame has a place in the world (the camera only turned or stood still, or saw nothing static), so "
            "there is nothing to align as a whole: leave out --global"
        )
    known = [entry.K[0, 0] for entry in entries.values() if entry.focal_known]
    if known and max(known) > (1 + ZOOM) * min(known):
        raise GlobalAlignmentError(
            f"the focal length changes from {min(known):.0f} to {max(known):.0f} pixels, --global needs one: cut the "
            "recording where the camera zooms, or leave out --global"
        )


def _adjusted(entries: Mapping[int, Entry]) -> Bundle:
    """Of the frames that are not lost, in their order."""
    used = _used(entries)
    rows = {index: row for row, index in enumerate(used)}
    chosen = list(used.values())
    depth = torch.stack([entry.depth for entry in chosen])
    known = depth > 0  # false for NaN
    start = BundleState(
        world_from_cam=torch.from_numpy(np.stack([entry.world_from_cam for entry in chosen])),
        log_depth=torch.where(known, depth, 1.0).log(),
        K=torch.from_numpy(_intrinsics(chosen)),
    )
    prior = Prior(
        depth_precision=torch.full_like(start.log_depth, DEPTH_SIGMA**-2),
        focal_sigma=0.0 if any(entry.focal_known for entry in chosen) else FOCAL_SIGMA / len(chosen) ** 0.5,
    )
    return adjust(_sightings(chosen, rows, known), start, prior)


def _used(entries: Mapping[int, Entry]) -> dict[int, Entry]:
    return {index: entries[index] for index in sorted(entries) if entries[index].state is not TrackingState.LOST}


def _intrinsics(entries: list[Entry]) -> np.ndarray:
    """Given ones if there are any, else the last estimate, which has seen most."""
    return next((entry.K for entry in entries if entry.focal_known), entries[-1].K)


def _sightings(entries: list[Entry], rows: Mapping[int, int], known: torch.Tensor) -> Sightings:
    """known: (T, N) bool, points with depth."""
    seen = [[one for one in entry.sightings if one.observer in rows] for entry in entries]
    frames, slots, points = len(entries), max(1, *map(len, seen)), known.shape[1]
    observer = torch.arange(frames)[:, None].repeat(1, slots)  # of slots that are not used: the frame itself
    pixels, weight = torch.zeros(frames, slots, points, 2), torch.zeros(frames, slots, points)
    for row, (entry, of_frame) in enumerate(zip(entries, seen, strict=True)):
        for slot, one in enumerate(of_frame):
            observer[row, slot] = rows[one.observer]
            pixels[row, slot] = one.pixels
            weight[row, slot] = one.weight * entry.static * known[row]
    return Sightings(entries[0].pixels, observer, pixels, weight)


def _outcome(entries: Mapping[int, Entry], bundle: Bundle) -> GlobalAlignment:
    focal = float(bundle.state.K[0, 0])
    refined: dict[int, RefinedFrame] = {}
    moved = []
    for row, (index, entry) in enumerate(_used(entries).items()):
        pose = bundle.state.world_from_cam[row]
        covariance = world_covariance(bundle.information[row], pose)
        refined[index] = RefinedFrame(
            world_from_cam=pose.numpy(),
            covariance=covariance,
            depth_factor=_growth(entry.depth, bundle.state.log_depth[row]),
            focal_factor=_focal_factor(entry, focal),
            # The first frames come before there is a world, but see points that later ones have placed in it.
            found=not entry.state.has_pose and is_known(covariance),
        )
        moved.append(float(np.linalg.norm(pose.numpy()[:3, 3] - entry.world_from_cam[:3, 3])))
    for index in sorted(entries.keys() - refined.keys()):  # lost: the last pose is held
        held, entry = refined[index - 1].world_from_cam, entries[index]
        refined[index] = RefinedFrame(held, entry.covariance, 1.0, _focal_factor(entry, focal))
    return GlobalAlignment(refined, focal, float(np.median(moved)), bundle.residual_before, bundle.residual)


def _focal_factor(entry: Entry, focal: float) -> float:
    return 1.0 if entry.focal_known else focal / float(entry.K[0, 0])


def _growth(depth: torch.Tensor, log_depth: torch.Tensor) -> float:
    """Median growth of the depth that is known; 1 if none is."""
    growth = (log_depth - depth.log())[depth > 0]
    return float(growth.median().exp()) if growth.numel() else 1.0
