"""What can be said of an image before anything is computed from it: that it shows nothing, or the same as the last one.

Also, once its flow to earlier images is known, whether it shows what they show. Without these, an image without
information counts as one in which nothing moves, with a surer pose than a good one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from easi3r_ros.core.types import AlignedFrame, PairGeometry, TrackingState

CELL = 16  # pixels per side of the cells in which texture is looked for
SMOOTHING = 1.5  # pixels: finer structure is mostly sensor noise
TEXTURE = 1.5  # grey levels per pixel, somewhere in the cell; a hazy wall has that, a lens cap has not
FEWEST_CELLS, FEW_CELLS = 0.1, 0.2  # shares of cells with texture: below them nothing, or little, can be tracked
NOISE_SHARE = 0.75  # of the variance that is finer than five pixels; 0.03 to 0.3 in video, 0.96 in white noise
LOW_CONTRAST = 24  # grey levels between dark and bright
FLAT = 6  # grey levels: below that there is not even low contrast
SAME = 0.02  # mean difference in grey levels: one pixel in fifty by one level
UNDECIDED = 0.3  # share of the image in the mask, from which the mover may as well be what is taken for the world
UNRECOGNISED, DOUBTFUL = 0.3, 0.5  # shares of the flow that the way back confirms; 0.9 is usual, 0.2 mere chance


def why_blind(image: np.ndarray) -> str:
    """Why nothing can be tracked in an image, for a person; empty if something can. image: (h, w, 3) uint8 RGB."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if _noise_share(grey) > NOISE_SHARE and textured_share(grey) >= FEWEST_CELLS:
        return "the image is noise: check the camera, its gain and its cable"
    share = textured_share(grey)
    if share >= FEWEST_CELLS:
        return ""
    low, high = (float(value) for value in np.percentile(grey, [1, 99]))
    if high - low < FLAT:
        middle = (low + high) / 2
        colour = "black" if middle < 40 else "white" if middle > 215 else "grey"
        return f"no texture: the image is {colour}; is the lens covered, the light off, or the exposure wrong?"
    if high - low < LOW_CONTRAST:
        return (
            f"no texture: low contrast, grey levels from {low:.0f} to {high:.0f} of 255; "
            "check the exposure, or how many bits the camera's values have"
        )
    return f"no texture in {1 - share:.0%} of the image: nothing there can be tracked"


def little_texture(image: np.ndarray) -> str:
    """As `why_blind`, of an image in which something can be tracked, but not much."""
    share = textured_share(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return f"only {share:.0%} of the image has texture" if share < FEW_CELLS else ""


def textured_share(grey: np.ndarray) -> float:
    """Share of the cells of a (h, w) uint8 image that have texture."""
    slope = _slope(grey)
    height, width = (max(CELL, side // CELL * CELL) for side in slope.shape)
    slope = cv2.copyMakeBorder(
        slope, 0, max(0, height - slope.shape[0]), 0, max(0, width - slope.shape[1]), cv2.BORDER_CONSTANT
    )[:height, :width]
    cells = slope.reshape(height // CELL, CELL, width // CELL, CELL).max(axis=(1, 3))  # (h, w) -> (h / 16, w / 16)
    return float((cells > TEXTURE).mean())


def _slope(grey: np.ndarray) -> np.ndarray:
    """(h, w) float32 grey levels per pixel, of what is coarser than noise and finer than a cell."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), SMOOTHING)
    detail = smooth - cv2.blur(smooth, (CELL, CELL))  # a ramp of light over the whole image is none
    across, down = (np.abs(cv2.Sobel(detail, cv2.CV_32F, dx, 1 - dx, scale=1 / 8)) for dx in (1, 0))
    return np.maximum(across, down)


def _noise_share(grey: np.ndarray) -> float:
    values = grey.astype(np.float32)
    return float((values - cv2.boxFilter(values, -1, (5, 5))).var() / max(float(values.var()), 1e-3))


def is_same(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether two (h, w, 3) uint8 images are one: what a camera takes twice differs at least by its noise."""
    return image.shape == other.shape and float(np.mean(cv2.absdiff(image, other))) < SAME


def recognised_share(index: int, pairs: Sequence[PairGeometry], image: np.ndarray) -> float:
    """Share of frame `index` that is found again in the earlier frame that shows most of it; 1 if no flow is known.

    image: (h, w, 3) uint8 RGB, the frame's network image. Counted is what has texture: flat areas fit everywhere.
    """
    shares = []
    for pair in pairs:
        motion = pair.evidence.motion
        flow = None if motion is None or pair.a != index else motion.flow_a
        if flow is not None:
            found = ~np.isnan(flow[0].cpu().numpy())
            textured = cv2.resize(_slope(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)), found.shape[::-1]) > TEXTURE
            shares.append(float(found[textured].mean()) if textured.any() else float(found.mean()))
    return max(shares, default=1.0)


def doubted(aligned: AlignedFrame, image: np.ndarray, recognised: float, moving: float) -> AlignedFrame:
    """A frame with a place, DEGRADED where its image is a weak reason for it.

    recognised, moving: shares of the image that are found again in earlier ones, and that the mask takes.
    """
    if aligned.state is not TrackingState.TRACKING:
        return aligned
    reason = little_texture(image)
    if not reason and recognised < DOUBTFUL:
        reason = f"only {recognised:.0%} of the image is found again in those before"
    if not reason and moving > UNDECIDED:
        reason = f"{moving:.0%} of the image moves: what is the world and what moves in it is not certain"
    return replace(aligned, state=TrackingState.DEGRADED, reason=reason) if reason else aligned
