"""What a calibration and a frame's name must look like to be of use; said in words, with the values. Knows no ROS."""

from __future__ import annotations

import numpy as np

LEAST_FOCAL, MOST_FOCAL = 0.1, 50.0  # of the image's width: 157 degrees, and a telescope
SQUARENESS = 2.0  # ratio of the focal lengths along x and y
MOST_SKEW = 0.1  # of the focal length
OUTSIDE = 0.5  # of the image's size: how far from it a principal point may be, as after a crop
FISHEYE = frozenset({"equidistant", "fisheye", "kannala_brandt", "kannala_brandt4", "omni", "mei", "double_sphere"})


def is_fisheye(distortion_model: str) -> bool:
    """By the model's name: with D = 0 an equidistant lens is still no pinhole."""
    return distortion_model.strip().lower() in FISHEYE


def why_implausible(K: np.ndarray, size: tuple[int, int], D: np.ndarray | None = None) -> str:
    """Why no camera can have this calibration, with its values; empty if one can.

    K: (3, 3), pixels of the image. size: (W, H) of that image; zeros: not known. D: distortion coefficients.
    """
    problem = _problem(K, size, np.empty(0) if D is None else D)
    if not problem:
        return ""
    width, height = size if min(size) > 0 else (640, 480)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    return (
        f"{problem} (fx {fx:.4g}, fy {fy:.4g}, cx {cx:.4g}, cy {cy:.4g}). For images of {width} x {height} one expects "
        f"about fx = fy = {0.8 * width:.0f}, cx = {width / 2:.0f}, cy = {height / 2:.0f}, in pixels"
    )


def _problem(K: np.ndarray, size: tuple[int, int], D: np.ndarray) -> str:
    if not np.isfinite(K).all():
        return "its K is not finite"
    if D.size and not np.isfinite(D).all():
        return f"its distortion D = {D.round(4).tolist()} is not finite"
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if fx <= 0 or fy <= 0:
        return "its focal lengths are not positive"
    if max(fx, fy) < 5 and abs(cx) <= 1 and abs(cy) <= 1:
        return "its K seems to be in units of the image's size, not in pixels"
    if not 1 / SQUARENESS <= fx / fy <= SQUARENESS:
        return "its two focal lengths do not belong together"
    if abs(K[0, 1]) > MOST_SKEW * fx or abs(K[1, 0]) > 0 or abs(K[2, 2] - 1) > 1e-6:
        return "its K is no camera matrix"
    if cx == 0 and cy == 0:
        return "its principal point is the image's corner"
    if min(size) <= 0:
        return ""
    if not LEAST_FOCAL <= fx / size[0] <= MOST_FOCAL:
        return "its focal length does not fit the image's size"
    inside = all(-OUTSIDE * side <= c <= (1 + OUTSIDE) * side for c, side in zip((cx, cy), size, strict=True))
    return "" if inside else "its principal point is far outside the image"


def tf_name(frame_id: str) -> str:
    """A frame's name as tf2 takes it: since ROS 2 without the slash in front."""
    return frame_id.strip().lstrip("/")
