"""Camera image and intrinsics -> network input, and the exact way back to the camera's pixels (METHOD 1)."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from easi3r_ros.core.config import PreprocessConfig
from easi3r_ros.core.types import Frame, ImageTransform, InputSpec, NetworkInput


def prepare(frame: Frame, spec: InputSpec, config: PreprocessConfig) -> NetworkInput:
    """Resize and crop a frame to what a backbone wants. Raises ValueError for an image too small to be used."""
    height, width = frame.image.shape[:2]
    transform = plan((width, height), spec, config.long_side or spec.long_side)
    shrinks = max(transform.resized_size) < max(width, height)
    resized = Image.fromarray(frame.image)
    if transform.resized_size != (width, height):
        filter_ = Image.LANCZOS if shrinks else Image.BICUBIC
        resized = resized.resize(transform.resized_size, filter_)
    (x0, y0), (w, h) = transform.crop, transform.size
    image = np.array(resized)[y0 : y0 + h, x0 : x0 + w]  # a writable copy: torch shares its memory
    K = None if frame.K is None else network_intrinsics(frame.K, transform)
    excluded = None if frame.excluded is None else _to_network(frame.excluded, transform)
    return NetworkInput(frame, np.ascontiguousarray(image), K, transform, excluded)


def plan(camera_size: tuple[int, int], spec: InputSpec, long_side: int) -> ImageTransform:
    """Sizes and crop for an image of `camera_size` (W, H); pure, so that it can be checked without an image."""
    W, H = camera_size
    target = round(long_side * max(W / H, H / W)) if spec.square else long_side
    ratio = target / max(W, H)
    rw, rh = int(round(W * ratio)), int(round(H * ratio))
    half_w, half_h = _half_crop(rw, rh, spec)
    if min(half_w, half_h) < 1:
        raise ValueError(f"a {W} x {H} image becomes {rw} x {rh}: too thin for tokens of {spec.multiple} pixels")
    size = (2 * half_w, 2 * half_h) if spec.multiple > 1 else (rw, rh)
    crop = (rw // 2 - half_w, rh // 2 - half_h) if spec.multiple > 1 else (0, 0)
    return ImageTransform(camera_size, (rw, rh), crop, size)


def _half_crop(rw: int, rh: int, spec: InputSpec) -> tuple[int, int]:
    cx, cy, step = rw // 2, rh // 2, spec.multiple
    if spec.square:
        return min(cx, cy), min(cx, cy)
    half_w, half_h = (2 * cx) // step * step // 2, (2 * cy) // step * step // 2
    if step > 1 and rw == rh:
        half_h = 3 * half_w // 4  # the published models saw no square images: cropped to 4:3
    return half_w, half_h


def _scale(transform: ImageTransform) -> tuple[float, float]:
    (W, H), (rw, rh) = transform.camera_size, transform.resized_size
    return rw / W, rh / H


def _to_network(mask: np.ndarray, transform: ImageTransform) -> np.ndarray:
    """(H, W) bool of the camera image -> (h, w) of the network image, True wherever a part of the pixel was."""
    size, (x0, y0), (w, h) = transform.resized_size, transform.crop, transform.size
    shrinks = size[0] < mask.shape[1]
    resized = cv2.resize(
        mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    )
    return resized[y0 : y0 + h, x0 : x0 + w] > 0


def seen_share(transform: ImageTransform) -> float:
    """Share of the camera's image that the crop left."""
    (rw, rh), (w, h) = transform.resized_size, transform.size
    return (w * h) / (rw * rh)


def network_intrinsics(K: np.ndarray, transform: ImageTransform) -> np.ndarray:
    """(3, 3) intrinsics of the camera image -> of the network image.

    Pixel centres are at integers: u' = s (u + 1/2) - 1/2 - x0.
    """
    (sx, sy), (x0, y0) = _scale(transform), transform.crop
    out = K.astype(np.float64).copy()
    out[0] *= sx
    out[1] *= sy
    out[0, 2] += 0.5 * sx - 0.5 - x0
    out[1, 2] += 0.5 * sy - 0.5 - y0
    return out


def camera_intrinsics(K: np.ndarray, transform: ImageTransform) -> np.ndarray:
    """Inverse of `network_intrinsics`."""
    (sx, sy), (x0, y0) = _scale(transform), transform.crop
    out = K.astype(np.float64).copy()
    out[0, 2] -= 0.5 * sx - 0.5 - x0
    out[1, 2] -= 0.5 * sy - 0.5 - y0
    out[0] /= sx
    out[1] /= sy
    return out


def to_camera(values: np.ndarray, transform: ImageTransform, fill: float, smooth: bool) -> np.ndarray:
    """(h, w) float map of the network image -> (H, W) map of the camera image.

    smooth: bilinear (probabilities), else nearest (depth, which must not be averaged across an edge). Pixels that the
    crop removed get `fill`.
    """
    (sx, sy), (x0, y0) = _scale(transform), transform.crop
    network_from_camera = np.array([[sx, 0, 0.5 * sx - 0.5 - x0], [0, sy, 0.5 * sy - 0.5 - y0]])
    flags = (cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    W, H = transform.camera_size
    out = cv2.warpAffine(
        values.astype(np.float32), network_from_camera, (W, H), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    u = np.arange(W) * sx + network_from_camera[0, 2]
    v = np.arange(H) * sy + network_from_camera[1, 2]
    out[:, (u < -0.5) | (u > transform.size[0] - 0.5)] = fill
    out[(v < -0.5) | (v > transform.size[1] - 0.5)] = fill
    return out
