"""Inverse depth and distance from the epipolar line of every flow vector, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.two_view.camera import Camera


@dataclass(frozen=True)
class Triangulation:
    """Any shape (...); inverse depths are in units of 1 / |t|."""

    inverse_depth: np.ndarray  # negative: the match is impossible for a static point in front of the camera
    information: np.ndarray  # 1 / variance of it
    parallax: np.ndarray  # pixels per unit of inverse depth
    epipolar: np.ndarray  # distance from the epipolar line in standard deviations, signed


def triangulate(
    source: np.ndarray, target: np.ndarray, information: np.ndarray, R: np.ndarray, t: np.ndarray, camera: Camera
) -> Triangulation:
    """The likeliest point of each ray of a, given where it was seen in b with a known covariance.

    source, target: (2, ...) pixels in a and in b. information: (3, ...) xx, xy, yy, 1 / pixels^2, of the target.
    A point at inverse depth r on the ray x is seen in b along R x + r t; cross-multiplied with the target (u, v) this
    is linear in r: r (T_xy - uv T_z) = uv A_z - A_xy with A = K R K^-1 x, T = K t.
    """
    K = camera.matrix()
    infinite = (K @ R @ np.linalg.inv(K)).astype(source.dtype)
    shift = (K @ t).astype(source.dtype)
    (u, v), (xx, xy, yy) = source, information
    A = [row[0] * u + row[1] * v + row[2] for row in infinite]
    gx, gy = shift[0] - target[0] * shift[2], shift[1] - target[1] * shift[2]
    hx, hy = target[0] * A[2] - A[0], target[1] * A[2] - A[1]
    ix, iy = xx * gx + xy * gy, xy * gx + yy * gy
    squared = gx * ix + gy * iy
    inverse_depth = (hx * ix + hy * iy) / np.maximum(squared, 1e-12)
    z = np.maximum(A[2] + inverse_depth * shift[2], 1e-3)  # depth in b over depth in a: turns the algebra into pixels
    determinant = np.maximum(xx * yy - xy * xy, 0)
    epipolar = (gx * hy - gy * hx) * np.sqrt(determinant / np.maximum(squared, 1e-12)) / z
    return Triangulation(inverse_depth, squared / z**2, np.sqrt(gx * gx + gy * gy) / z, epipolar)
