"""Dense optical flow both ways between two frames, with the information (inverse covariance) of every flow vector."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Expected error of a flow vector, fitted to rendered clips with true flow (docs/classical.md).
FLOOR = 0.05  # pixels: what is left where texture is rich and nothing moves
RELATIVE = 0.02  # of the length of the flow vector
GREY_NOISE = 1.0  # grey levels per square root of the structure window
OUT_OF_VIEW = 100.0  # pixels: the vector ends outside the other image, so it says nothing
WINDOW = 13  # pixels: about the patch that the flow matches

SMALLEST_SIDE = 16  # pixels


@dataclass(frozen=True)
class Flow:
    """Flow from one frame to another, on the pixels of the first."""

    vectors: np.ndarray  # (h, w, 2) float32 pixels: where the pixel went, minus where it was
    information: np.ndarray  # (3, h, w) float32 1/pixels^2: xx, xy, yy of the inverse covariance
    cycle: np.ndarray  # (h, w) float32 pixels: distance between a pixel and where the flow there and back ends

    def target(self) -> np.ndarray:
        """(h, w, 2) float32 pixel of the other image that each pixel went to."""
        return self.vectors + pixel_centres(*self.cycle.shape)


def pixel_centres(height: int, width: int) -> np.ndarray:
    """(height, width, 2) float32 coordinates (u, v)."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1)


def structure_tensor(grey: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> (3, h, w) float32: xx, xy, yy of the gradient's second moments around each pixel."""
    dx = cv2.Scharr(grey, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(grey, cv2.CV_32F, 0, 1, scale=1 / 32)
    return np.stack([cv2.boxFilter(product, -1, (WINDOW, WINDOW)) for product in (dx * dx, dx * dy, dy * dy)])


class FlowEstimator:
    """Dense inverse search (Kroeger et al., ECCV 2016) down to full resolution.

    Sparse patches without variational refinement: on rendered clips at the price of OpenCV's MEDIUM preset, which stops
    at half resolution, this has half the error on small moving things.
    """

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._dis.setFinestScale(0)
        self._dis.setPatchStride(6)
        self._dis.setGradientDescentIterations(8)
        self._dis.setVariationalRefinementIterations(0)

    def both_ways(
        self, grey_a: np.ndarray, grey_b: np.ndarray, structure_a: np.ndarray, structure_b: np.ndarray
    ) -> tuple[Flow, Flow]:
        """Flow a -> b and b -> a of two (h, w) uint8 images. structure: (3, h, w) of `structure_tensor`."""
        forward = self._dis.calc(grey_a, grey_b, None)
        backward = self._dis.calc(grey_b, grey_a, None)
        return _assess(forward, backward, structure_a), _assess(backward, forward, structure_b)


def _assess(vectors: np.ndarray, opposite: np.ndarray, structure: np.ndarray) -> Flow:
    height, width = vectors.shape[:2]
    target = vectors + pixel_centres(height, width)
    back = cv2.remap(opposite, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cycle = cv2.magnitude(*cv2.split(vectors + back))
    length = cv2.magnitude(*cv2.split(vectors))
    outside = (target < 0).any(-1) | (target[..., 0] > width - 1) | (target[..., 1] > height - 1)
    variance = FLOOR**2 + (RELATIVE * length) ** 2 + cycle**2
    variance[outside] += OUT_OF_VIEW**2
    return Flow(vectors, flow_information(structure, variance), cycle)


def flow_information(structure: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(3, h, w) inverse of the covariance noise^2 S^-1 + variance I, finite also where the structure S is singular.

    With L = S / noise^2 the inverse is (L + variance det(L) I) / det(I + variance L).
    """
    xx, xy, yy = structure / np.float32(GREY_NOISE**2)
    determinant = np.maximum(xx * yy - xy * xy, 0)
    isotropic = variance * determinant
    scale = 1 / (1 + variance * (xx + yy + isotropic))
    return np.stack([(xx + isotropic) * scale, xy * scale, (yy + isotropic) * scale])
