"""Metres from a depth sensor whose image is aligned to the camera's."""

from __future__ import annotations

import math

import numpy as np

from easi3r_ros.core.types import FrameResult
from easi3r_ros.mapping.scale import LockRule, Measurement

RULE = LockRule(fewest=10, shared=0.02)
SAMPLES = 4000  # pixels that are looked at
FEWEST = 150  # of them with both depths
CONFIDENCE = 1.5
AGREE = 0.15  # of log depth
AGREEING = 0.4  # share of the pixels, for a measurement at all
INDEPENDENT = 60  # pixels that share their error
SIGMA = 0.01  # relative, of one measurement at best: alignment of the two images, the sensor's own scale


def depth_ratio(result: FrameResult, metres: np.ndarray) -> Measurement | None:
    """metres: (h, w) z-depth of the same view, any size of the same shape; 0, NaN and infinite where not known.

    None: too few pixels are known to both. Static pixels alone count, in the alignment's units.
    """
    height, width = result.mask.shape
    step = max(1, round(math.sqrt(height * width / SAMPLES)))
    v, u = (grid.ravel() for grid in np.mgrid[step // 2 : height : step, step // 2 : width : step])
    rows = ((v + 0.5) * metres.shape[0] / height).astype(int)
    columns = ((u + 0.5) * metres.shape[1] / width).astype(int)
    sensed, seen = metres[rows, columns].astype(float), result.depth[v, u].astype(float)
    good = np.isfinite(sensed) & (sensed > 0) & np.isfinite(seen) & (seen > 0)
    good &= ~result.mask[v, u] & (result.confidence[v, u] >= CONFIDENCE)
    if good.sum() < FEWEST:
        return None
    logs = np.log(sensed[good] / seen[good])
    centre = float(np.median(logs))
    agree = np.abs(logs - centre) <= AGREE
    if agree.mean() < AGREEING:
        return Measurement(
            math.nan,
            reason=f"depth image and camera agree on the shape of only {agree.mean():.0%} of the picture: is the depth "
            "image aligned to the camera's?",
        )
    spread = 1.4826 * float(np.median(np.abs(logs[agree] - centre)))
    sigma = math.hypot(SIGMA, spread / math.sqrt(max(1.0, agree.sum() / INDEPENDENT)))
    return Measurement(math.exp(float(np.median(logs[agree]))), sigma)
