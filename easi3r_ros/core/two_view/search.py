"""A global search for the camera's motion: all directions of translation, each with the rotation that suits it.

Between frames of a video the rotation is small and nearly known, so only two numbers remain to be searched. On rendered
clips of people before a moving camera, refinement from OpenCV's five-point MAGSAC++ ended in a wrong minimum in 13 to
28 % of the pairs, from here in none, in less time.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from easi3r_ros.core.two_view.refine import (
    QUARTER_OF_NORMAL,
    SMALLEST_SCALE,
    Bearings,
    Motion,
    cross,
    geman_mcclure,
    turned,
)

DIRECTIONS = 64
MATCHES = 200
ITERATIONS = 4


def search_translation(bearings: Bearings, turn: Motion, best: int = 2) -> list[Motion]:
    """The `best` motions of those whose translation is one of DIRECTIONS on a hemisphere (the sign cannot be told yet).

    turn: rotation to start from. For every direction t the residual of a match (a, b) is linear in a small rotation w:
    b . (t x (R a + w x R a)) = t . (R a x b) + w . (R a x (b x t)).
    """
    some = bearings.some(MATCHES)
    directions = hemisphere(DIRECTIONS)
    base, by_turn = _linear_in_turn(some, turn.R, directions)
    w = np.zeros((DIRECTIONS, 3))
    for _ in range(ITERATIONS):
        residuals = base + (w[:, None] @ by_turn)[:, 0]
        weights = geman_mcclure(residuals, _scales(residuals)[:, None])
        weighted = by_turn * weights[:, None]
        normal = weighted @ by_turn.transpose(0, 2, 1) + 1e-9 * np.eye(3)
        w = -np.linalg.solve(normal, weighted @ base[..., None])[..., 0]
    residuals = base + (w[:, None] @ by_turn)[:, 0]
    scale = _scales(residuals).min()
    costs = 1 - np.sqrt(geman_mcclure(residuals, scale)).mean(axis=1)
    return [Motion(turned(turn.R, w[i]), directions[i], turn.camera, turn.focal) for i in np.argsort(costs)[:best]]


def _linear_in_turn(bearings: Bearings, R: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (T, N) in standard deviations of N matches for T directions, and their derivatives (T, 3, N) by w."""
    a, b = R @ bearings.a, bearings.b
    # R a x (b x t) = b (R a . t) - t (R a . b)
    by_turn = b * (directions @ a)[:, None] - directions[..., None] * (a * b).sum(0)
    nx = directions[:, 1:2] * a[2] - directions[:, 2:3] * a[1]  # epipolar lines t x R a
    ny = directions[:, 2:3] * a[0] - directions[:, 0:1] * a[2]
    xx, xy, yy = bearings.covariance
    inverse = 1 / np.sqrt(xx * nx * nx + 2 * xy * nx * ny + yy * ny * ny + 1e-14)
    return directions @ cross(a, b) * inverse, by_turn * inverse[:, None]


def _scales(residuals: np.ndarray) -> np.ndarray:
    """(T,) robust scale of each row of (T, N) residuals."""
    quarter = residuals.shape[1] // 4
    quartiles = np.partition(np.abs(residuals), quarter, axis=1)[:, quarter]
    return np.maximum(quartiles / QUARTER_OF_NORMAL, SMALLEST_SCALE)


@lru_cache(maxsize=1)
def hemisphere(count: int) -> np.ndarray:
    """(count, 3) unit vectors with z > 0, evenly spread on a spiral (Fibonacci lattice)."""
    step = np.arange(count) + 0.5
    z = step / count
    angle = np.pi * (1 + np.sqrt(5)) * step
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)
