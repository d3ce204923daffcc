"""Keypoints say where most of an image went, however far: what dense flow needs to start from after a large turn."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

KEYPOINTS = 400
FEWEST_MATCHES = 15
REPROJECTION = 4.0  # pixels: parallax counts as agreement, the flow finds the rest


@dataclass(frozen=True)
class Keypoints:
    pixels: np.ndarray  # (N, 2) float32
    descriptors: np.ndarray  # (N, 32) uint8, binary

    @classmethod
    def of(cls, grey: np.ndarray) -> Keypoints:
        """ORB (Rublee et al., ICCV 2011) of a (h, w) uint8 image."""
        # Smaller patches than the default's 31 pixels, and finer steps of scale: the images are small.
        detector = cv2.ORB.create(KEYPOINTS, 1.3, 4, edgeThreshold=12, patchSize=21, fastThreshold=8)
        found, descriptors = detector.detectAndCompute(grey, None)
        if descriptors is None:
            return cls(np.empty((0, 2), np.float32), np.empty((0, 32), np.uint8))
        return cls(cv2.KeyPoint.convert(found), descriptors)


def homography_flow(first: Keypoints, second: Keypoints, size: tuple[int, int]) -> np.ndarray | None:
    """(h, w, 2) flow by the homography that most keypoints follow; None if they follow none. size: (w, h)."""
    if min(len(first.pixels), len(second.pixels)) < FEWEST_MATCHES:
        return None
    matches = cv2.BFMatcher.create(cv2.NORM_HAMMING, crossCheck=True).match(first.descriptors, second.descriptors)
    if len(matches) < FEWEST_MATCHES:
        return None
    a = first.pixels[[match.queryIdx for match in matches]]
    b = second.pixels[[match.trainIdx for match in matches]]
    homography, inliers = cv2.findHomography(a, b, cv2.USAC_MAGSAC, REPROJECTION, maxIters=300)
    if homography is None or np.count_nonzero(inliers) < FEWEST_MATCHES:
        return None
    pixels = np.moveaxis(np.indices(size, np.float32), 0, -1).swapaxes(0, 1)  # (h, w, 2) u, v
    flow = cv2.perspectiveTransform(pixels, homography) - pixels
    return flow if np.abs(flow).max() < 2 * max(size) else None  # the horizon of the homography is in the image
