"""Lens distortion taken out of a camera's images, and put back into what was found in them.

The pipeline sees a pinhole camera in the same place, looking the same way. Whoever takes a mask or a depth image lays
it on the image that the camera sent, so these are bent back to it; clouds and poses need no bending.
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from easi3r_ros.core.types import Frame, Received
from easi3r_ros.messages.plausible import is_fisheye, why_implausible

NONE = 1e-12  # coefficients below are zero
# By what the model is called in sensor_msgs/distortion_models.hpp, and in practice: numbers of coefficients.
POLYNOMIAL = {"": (4, 5, 8, 12, 14), "plumb_bob": (4, 5, 8), "rational_polynomial": (8, 12, 14, 5, 4)}
EQUIDISTANT, EQUIDISTANT_COUNTS = frozenset({"equidistant", "fisheye", "kannala_brandt", "kannala_brandt4"}), (0, 4)
SHARED = 0.5  # pixels: a pixel there and back again; more, and the coefficients are no lens's
STEPS = 10
LEAST_INVERTED = 0.8  # share of the image for which that must hold


class UnknownLens(ValueError):
    """Distortion that cannot be taken out; the message says why, for a person."""


def is_bent(model: str, D: np.ndarray) -> bool:
    """Whether there is distortion at all: with D = 0 a fisheye is still no pinhole."""
    return bool(np.any(np.abs(D) > NONE)) or is_fisheye(model)


class Lens:
    """One lens. Pixel (u, v) has its centre at integers, in both images, which have one size."""

    def __init__(self, model: str, K: np.ndarray, D: np.ndarray, size: tuple[int, int], pinhole: np.ndarray):
        """model, D: as CameraInfo. K, pinhole: (3, 3), pixels of the image as received and as it is to become.

        size: (W, H). Raises UnknownLens.
        """
        self.K, self.pinhole, self.size = K.astype(np.float64), pinhole.astype(np.float64), size
        name, count = model.strip().lower(), len(D)
        self._fisheye = name in EQUIDISTANT
        counts = EQUIDISTANT_COUNTS if self._fisheye else (0, *POLYNOMIAL.get(name, ()))
        if not self._fisheye and name not in POLYNOMIAL:
            raise UnknownLens(
                f"distortion_model '{model}' is not known (plumb_bob, rational_polynomial and equidistant are)"
            )
        if count not in counts:
            expected = " or ".join(map(str, sorted(set(counts))))
            raise UnknownLens(f"distortion_model '{model}' has {count} coefficients, {expected} are expected")
        self._D = np.zeros(4) if self._fisheye and not count else np.asarray(D, np.float64)
        if not self._inverted_share() >= LEAST_INVERTED:
            raise UnknownLens(f"the coefficients D = {np.round(D, 4).tolist()} cannot be those of this lens")

    def rectify(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 as received -> as the pinhole camera would see it; black beyond the edge."""
        return cv2.remap(image, *self._to_pinhole, cv2.INTER_LINEAR)

    def rectify_mask(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) bool, likewise."""
        return cv2.remap(mask.astype(np.uint8), *self._to_pinhole, cv2.INTER_NEAREST) > 0

    def restore(self, values: np.ndarray, fill: float, smooth: bool) -> np.ndarray:
        """(H, W) float32 or int32 map of the pinhole's image -> of the received one, `fill` beyond the edge.

        smooth: bilinear, else nearest.
        """
        whole = values.astype(np.float32) if values.dtype != np.float32 else values  # ids below 2^24 survive that
        out = cv2.remap(
            whole,
            *self._to_received,
            cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
        return out.astype(values.dtype) if values.dtype != np.float32 else out

    def frame(self, frame: Frame) -> Frame:
        """The frame as the pinhole camera would have it, which remembers how it was received."""
        received = Received(frame.image, self.K, self.restore)
        excluded = None if frame.excluded is None else self.rectify_mask(frame.excluded)
        return Frame(
            frame.index, frame.stamp_ns, frame.frame_id, self.rectify(frame.image), self.pinhole, excluded, received
        )

    @cached_property
    def _to_pinhole(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) float32 each: where a pixel of the pinhole's image is in the received one."""
        make = cv2.fisheye.initUndistortRectifyMap if self._fisheye else cv2.initUndistortRectifyMap
        return make(self.K, self._D, np.eye(3), self.pinhole, self.size, cv2.CV_32FC1)

    @cached_property
    def _to_received(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) float32 each: where a pixel of the received image is in the pinhole's."""
        width, height = self.size
        pixels = np.stack(np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)), -1)
        found = self._undistorted(pixels.reshape(-1, 2)).reshape(height, width, 2)
        found = np.where(np.isfinite(found), found, -1e4).clip(-1e4, 1e5).astype(np.float32)
        return np.ascontiguousarray(found[..., 0]), np.ascontiguousarray(found[..., 1])

    def _undistorted(self, pixels: np.ndarray) -> np.ndarray:
        """(N, 2) received -> pinhole."""
        if self._fisheye:
            return cv2.fisheye.undistortPoints(pixels[:, None], self.K, self._D, P=self.pinhole)[:, 0]
        found = cv2.undistortPoints(pixels[:, None], self.K, self._D, R=np.eye(3), P=self.pinhole)[:, 0]
        # OpenCV 4 stops after five steps, half a pixel short of the corners of a wide lens.
        gain = self.pinhole[[0, 1], [0, 1]] / self.K[[0, 1], [0, 1]]
        error = pixels - self._distorted(found)
        for _ in range(STEPS):
            nearer = found + gain * error
            rest = pixels - self._distorted(nearer)
            better = (rest**2).sum(1) < (error**2).sum(1)
            found[better], error[better] = nearer[better], rest[better]
        return found

    def _distorted(self, pixels: np.ndarray) -> np.ndarray:
        """(N, 2) pinhole -> received."""
        rays = (np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(self.pinhole).T)[:, None]
        zero = np.zeros(3)
        if self._fisheye:
            return cv2.fisheye.distortPoints(np.ascontiguousarray(rays[..., :2]), self.K, self._D)[:, 0]
        return cv2.projectPoints(rays, zero, zero, self.K, self._D)[0][:, 0]

    def _inverted_share(self) -> float:
        """Share of a coarse grid of the received image that comes back to where it was."""
        width, height = self.size
        grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 15), np.linspace(0, height - 1, 11)), -1).reshape(-1, 2)
        with np.errstate(all="ignore"):
            back = self._distorted(self._undistorted(grid))
            return float((np.linalg.norm(back - grid, axis=1) < SHARED).mean())


def pinhole_of(K: np.ndarray, projection: np.ndarray, rotation: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(3, 3) of the rectified image: that of P, where it is one and does not turn the camera; else K.

    projection: (3, 3), the left part of P, in pixels of the image. rotation: (3, 3) R. As received, a stereo camera's P
    belongs to an image that R has turned, and clouds in the image's frame would be turned with it.
    """
    turned = np.abs(rotation - np.eye(3)).max() > 1e-6 and np.any(rotation)
    usable = projection[0, 0] > 0 and not turned and not why_implausible(projection, size)
    return projection if usable else K
