"""A sparse, even sample of the dense flow between two frames: what the camera's motion is estimated from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.two_view.flow import CONFIRMED, Flow

PER_DIRECTION = 500  # samples of the flow a -> b, and as many of b -> a
MAX_DEVIATION = 0.6  # pixels, standard deviation along the worse direction


@dataclass(frozen=True)
class Matches:
    """N pixel correspondences.

    One end of each is exact (where the flow was asked), the other is measured with the given covariance. Between frames
    of a video the images differ so little that it does not matter which: the error is taken to be b's.
    """

    a: np.ndarray  # (N, 2) float64 pixels
    b: np.ndarray  # (N, 2) float64 pixels
    covariance: np.ndarray  # (N, 3) float64 pixels^2: xx, xy, yy

    def __len__(self) -> int:
        return len(self.a)

    def information(self) -> np.ndarray:
        """(N, 3) inverse covariance in the same form."""
        return _inverse(self.covariance)


def sample_matches(
    forward: Flow, backward: Flow, excluded_a: np.ndarray | None = None, excluded_b: np.ndarray | None = None
) -> Matches:
    """Consistent, informative matches of both directions on a regular grid.

    excluded: (g, k) bool, True where a pixel must not be used (it moves).
    """
    source_f, target_f, covariance_f = _sample(forward, excluded_a)
    source_b, target_b, covariance_b = _sample(backward, excluded_b)
    return Matches(
        a=np.concatenate([source_f, target_b]),
        b=np.concatenate([target_f, source_b]),
        covariance=np.concatenate([covariance_f, covariance_b]),
    )


def _sample(flow: Flow, excluded: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    step = max(1, int(np.sqrt(flow.cycle.size / PER_DIRECTION)))
    every = (..., slice(step // 2, None, step), slice(step // 2, None, step))
    information = flow.information[every].reshape(3, -1).T.astype(np.float64)  # (3, n, m) -> (n * m, 3)
    covariance = _inverse(information)
    usable = (flow.cycle[every].ravel() < CONFIRMED) & (_largest(covariance) < MAX_DEVIATION**2)
    if excluded is not None:
        usable &= ~excluded[every].ravel()
    source, target = (
        nodes[every].reshape(2, -1).T[usable].astype(np.float64)  # (2, n, m) -> (n * m, 2)
        for nodes in (flow.nodes, flow.target)
    )
    return source, target, covariance[usable]


def _inverse(symmetric: np.ndarray) -> np.ndarray:
    """(N, 3) xx, xy, yy -> the inverse in the same form; where there is no information, a very large variance."""
    xx, xy, yy = symmetric.T
    determinant = np.maximum(xx * yy - xy * xy, 1e-9)
    return np.stack([yy, -xy, xx], axis=-1) / determinant[:, None] + np.array([1e-6, 0.0, 1e-6])


def _largest(symmetric: np.ndarray) -> np.ndarray:
    """(N,) larger eigenvalue of (N, 3) xx, xy, yy."""
    xx, xy, yy = symmetric.T
    return (xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)
