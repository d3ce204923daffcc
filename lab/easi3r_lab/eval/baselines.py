"""What a motion cue must beat: frame difference after a homography, Sampson error of the flow, nothing, and chance."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

GRID = 8  # pixels between the matches that models are fitted to
BLUR = 5  # pixels, against noise and half-pixel misfits of the warp
INLIER = 1.0  # pixels

Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray]  # earlier and newest image -> (H, W) float32, high: moves


def frame_difference(earlier: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Grey-level difference to the earlier image, warped by the homography that explains most of the flow.

    Images: (H, W, 3) uint8 RGB. Returns (H, W) float32 grey levels, on the newest image.
    """
    previous, current = _grey(earlier), _grey(newest)
    now, before = _matches(current, previous)
    homography, _ = cv2.findHomography(now, before, cv2.USAC_MAGSAC, INLIER)
    if homography is not None:
        size = current.shape[::-1]
        previous = cv2.warpPerspective(
            previous, homography, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
    return cv2.blur(cv2.absdiff(current, previous).astype(np.float32), (BLUR, BLUR))


def sampson_error(earlier: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """First-order distance of the flow from the epipolar geometry that explains most of it (Hartley & Zisserman 11.9).

    Arguments and answer as `frame_difference`, in pixels; zero where no geometry could be fitted.
    """
    previous, current = _grey(earlier), _grey(newest)
    flow = _flow(current, previous)
    now, before = _matches(current, previous, flow)
    fundamental, _ = cv2.findFundamentalMat(now, before, cv2.USAC_MAGSAC, INLIER)
    height, width = current.shape
    if fundamental is None or fundamental.shape != (3, 3):
        return np.zeros((height, width), np.float32)
    v, u = np.mgrid[:height, :width].astype(np.float64)
    x = np.stack([u, v, np.ones_like(u)], axis=-1)
    y = np.stack([u + flow[..., 0], v + flow[..., 1], np.ones_like(u)], axis=-1)
    line_y, line_x = x @ fundamental.T, y @ fundamental
    residual = (y * line_y).sum(-1)
    slope = (line_y[..., :2] ** 2).sum(-1) + (line_x[..., :2] ** 2).sum(-1)
    return np.sqrt(residual**2 / np.maximum(slope, 1e-12)).astype(np.float32)


def nothing(earlier: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Zero everywhere."""
    return np.zeros(newest.shape[:2], np.float32)


def chance(earlier: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Noise, the same whenever it is asked about the same image."""
    rng = np.random.default_rng(int(newest.astype(np.uint64).sum()))
    return rng.random(newest.shape[:2], dtype=np.float32)


BASELINES: dict[str, Baseline] = {
    "frame difference": frame_difference,
    "Sampson error": sampson_error,
    "nothing": nothing,
    "chance": chance,
}


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _flow(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(source, target, None)


def _matches(source: np.ndarray, target: np.ndarray, flow: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 2) on a grid of the source, and where the flow takes them in the target."""
    flow = _flow(source, target) if flow is None else flow
    v, u = np.mgrid[GRID // 2 : source.shape[0] : GRID, GRID // 2 : source.shape[1] : GRID]
    start = np.stack([u.ravel(), v.ravel()], axis=-1).astype(np.float32)
    return start, start + flow[v.ravel(), u.ravel()]
