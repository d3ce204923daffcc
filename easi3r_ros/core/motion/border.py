"""Borders of what moves: odds of motion on cells, corrected by what colours say.

Flow smears a mover into smooth sky and road, and loses thin or slow parts of it. So the colours of what surely moves
and of what surely stands around it are learned, and carried along from frame to frame. They decide near the border,
where odds from flow count little, and cells of like colour agree with their neighbours in the end (mean field of a
contrast-sensitive Potts model, as GrabCut: Rother et al., 2004; carried along as Papazoglou and Ferrari, ICCV 2013).
Colours alone never begin a region: where nothing moves, nothing is found.

All distances are in cells, of STEP x STEP pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import hypot

import cv2
import numpy as np

BINS = 16  # per channel of Lab
COLOUR_RANGE = 2  # Lab's a and b: the middle half of their range has the bins
FORGETTING = 0.8  # per frame, of what was learned about colours
UNSEEN = 1e-4  # share of the pixels that any colour is taken to have
MOST_FROM_COLOUR = 3.0  # log odds

BAND = 4  # on both sides of the border flow is smeared
IN_BAND = 0.3  # weight of its odds there
SURE_ODDS = 2.0  # log odds of motion from which colours are learned as a mover's
SURE_DISTANCE = 2.25  # ... and no nearer than this to the border
SURROUNDINGS = 20  # static colours are learned from no farther than this
FULL_REACH, LEAST_REACH = 3, 9  # a mover's colour speaks for motion up to there, and fades until there
FARTHEST = 12  # beyond it nothing is added
NOT_THERE = -1.0  # log odds beyond FARTHEST, at most

AGREEMENT = 1.2  # log odds that two like neighbours lend each other
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))  # rows, columns; and the opposite ones
SWEEPS = 6
MOST_CERTAIN = 0.9999  # |expectation| of a label: keeps log odds finite


@dataclass(frozen=True)
class Colours:
    """Histograms of what moves and of the static world around it, each (BINS**3,), in cells."""

    moving: np.ndarray
    static: np.ndarray

    @classmethod
    def none(cls) -> Colours:
        return cls(np.zeros(BINS**3), np.zeros(BINS**3))

    def learned(self, bins: np.ndarray, moving: np.ndarray, static: np.ndarray) -> Colours:
        """With another frame's. bins: (g, k), `colour_bins`; moving, static: (g, k) bool."""
        counts = (np.bincount(bins[cells], minlength=BINS**3) for cells in (moving, static))
        return Colours(*(FORGETTING * old + new for old, new in zip((self.moving, self.static), counts, strict=True)))

    def log_odds(self, bins: np.ndarray) -> np.ndarray:
        """(g, k) float32 log odds of motion by colour alone, both equally likely before."""
        return self._by_bin[bins]

    @cached_property
    def _by_bin(self) -> np.ndarray:
        moving, static = _density(self.moving), _density(self.static)
        odds = np.log((moving + UNSEEN) / (static + UNSEEN))
        return np.clip(odds, -MOST_FROM_COLOUR, MOST_FROM_COLOUR).astype(np.float32).ravel()


def _density(counts: np.ndarray) -> np.ndarray:
    """(BINS**3,) counts -> (BINS, BINS, BINS) shares, blurred over the neighbouring bins."""
    shares = (counts / max(counts.sum(), 1.0)).reshape(BINS, BINS, BINS)
    for axis in range(3):
        line = np.moveaxis(shares, axis, 0)
        blurred = 0.5 * line
        blurred[1:] += 0.25 * line[:-1]
        blurred[:-1] += 0.25 * line[1:]
        shares = np.moveaxis(blurred, 0, axis)
    return shares


def colour_bins(lab: np.ndarray) -> np.ndarray:
    """(g, k, 3) uint8 Lab -> (g, k) int32 index of the bin."""
    width = 256 // BINS
    lightness = lab[..., 0] // width
    a, b = (
        np.clip((lab[..., channel].astype(np.int32) - 128) // (width // COLOUR_RANGE) + BINS // 2, 0, BINS - 1)
        for channel in (1, 2)
    )
    return (lightness.astype(np.int32) * BINS + a) * BINS + b


def follow_colours(image: np.ndarray, log_odds: np.ndarray, known: Colours) -> tuple[np.ndarray, Colours]:
    """Corrected log odds (g, k), and what is then known about colours.

    image: (h, w, 3) uint8 RGB. log_odds: (g, k) float32, above zero where something moves. known: by the frame before.
    """
    moves = log_odds > 0
    if not moves.any():
        return log_odds, known
    small = cv2.resize(image, log_odds.shape[::-1], interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    inside, outside = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 3) for side in (moves, ~moves))
    bins = colour_bins(lab)
    colours = known.learned(bins, *_sure(log_odds, inside, outside))
    region = _bounds(outside <= FARTHEST)
    inside, outside, odds = inside[region], outside[region], log_odds[region]
    by_colour = colours.log_odds(bins[region])
    reach = np.clip((LEAST_REACH - outside) / (LEAST_REACH - FULL_REACH), 0, 1)
    by_colour = np.where(by_colour > 0, by_colour * reach, by_colour)
    by_flow = np.where((inside <= BAND) & (outside <= BAND), IN_BAND * odds, odds)
    total = np.where(outside > FARTHEST, np.minimum(odds, NOT_THERE), by_flow + by_colour)
    result = np.minimum(log_odds, NOT_THERE)
    result[region] = agreed(total.astype(np.float32), lab[region])
    return result, colours


def _sure(log_odds: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(g, k) bool each: what surely moves, what surely stands around it. inside, outside: distance to the border."""
    moving = (log_odds > SURE_ODDS) & (inside > SURE_DISTANCE)
    if np.count_nonzero(moving) < 0.1 * np.count_nonzero(inside):  # thin: its middle must do
        moving = inside > 0.5 * inside.max()
    return moving, (outside > SURE_DISTANCE) & (outside < SURROUNDINGS)


def _bounds(cells: np.ndarray) -> tuple[slice, slice]:
    """The rectangle that holds all cells (g, k) that are True, one more on each side."""
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    return tuple(slice(max(found[0] - 1, 0), found[-1] + 2) for found in (rows, columns))


def agreed(log_odds: np.ndarray, lab: np.ndarray) -> np.ndarray:
    """(g, k) log odds after like neighbours have agreed. lab: (g, k, 3) uint8."""
    guide = lab.astype(np.float32)
    links = [(_shifted(dy, dx), _distances(guide, *_shifted(dy, dx)), hypot(dy, dx)) for dy, dx in NEIGHBOURS]
    usual = 2 * float(np.mean([distances.mean() for _, distances, _ in links[:2]])) + 1e-6
    links = [(views, AGREEMENT / apart * np.exp(-distances / usual)) for views, distances, apart in links]
    label = np.tanh(log_odds / 2)  # expectation of -1: static, 1: moves
    for _ in range(SWEEPS):
        told = log_odds.copy()
        for (here, there), weight in links:
            told[here] += weight * label[there]
            told[there] += weight * label[here]
        label = np.tanh(told / 2)
    return 2 * np.arctanh(np.clip(label, -MOST_CERTAIN, MOST_CERTAIN))


def _shifted(dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Views of a map and of the same map (dy, dx) farther on; dy >= 0."""
    near, far = slice(None, -dx or None), slice(dx, None)
    if dx < 0:
        near, far = slice(-dx, None), slice(None, dx)
    return (slice(None, -dy or None), near), (slice(dy, None), far)


def _distances(guide: np.ndarray, here: tuple[slice, slice], there: tuple[slice, slice]) -> np.ndarray:
    """Squared differences of colour between the two views."""
    difference = guide[here] - guide[there]
    return np.einsum("...c,...c", difference, difference)
