"""The pinhole of a frame, and what is believed about a focal length that nobody told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.geometry import intrinsics


@dataclass(frozen=True)
class Camera:
    """A pinhole; pixel centres at integers, x right, y down, z forward."""

    focal: np.ndarray  # (2,) pixels
    centre: np.ndarray  # (2,) pixels

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """(N, 2) pixels -> (N, 3) directions with z = 1."""
        return np.concatenate([(pixels - self.centre) / self.focal, np.ones((len(pixels), 1))], axis=-1)

    def matrix(self) -> np.ndarray:
        """(3, 3) K."""
        (fx, fy), (cx, cy) = self.focal, self.centre
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    def zoomed(self, log_factor: float) -> Camera:
        return Camera(self.focal * np.exp(log_factor), self.centre)


@dataclass(frozen=True)
class FocalBelief:
    """A normal distribution over the logarithm of the focal length."""

    log_focal: float  # of pixels
    information: float  # 1 / variance; infinite: known exactly

    @property
    def known(self) -> bool:
        return bool(np.isinf(self.information))


def camera_from(K: np.ndarray | None, size: tuple[int, int], belief: FocalBelief) -> Camera:
    """The camera with intrinsics K, or, where K is None, one with the believed focal length. size: (w, h) pixels."""
    K = intrinsics(float(np.exp(belief.log_focal)), size) if K is None else K.astype(np.float64)
    return Camera(K[[0, 1], [0, 1]], K[:2, 2])


def focal_from_fov(width: int, horizontal_fov: float) -> float:
    """Focal length in pixels of an image `width` pixels wide that spans `horizontal_fov` degrees."""
    return float(width / 2 / np.tan(np.radians(horizontal_fov) / 2))
