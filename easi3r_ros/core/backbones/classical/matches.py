"""A sparse, even sample of the dense flow between two frames: what the camera's motion is estimated from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.backbones.classical.flow import Flow

PER_DIRECTION = 1200  # samples of the flow a -> b, and as many of b -> a
MAX_CYCLE = 1.0  # pixels: matches whose way there and back differs by more are wrong or occluded
MAX_DEVIATION = 2.0  # pixels, standard deviation along the worse direction


@dataclass(frozen=True)
class Matches:
    """N pixel correspondences. One end of each is exact (where the flow was asked), the other is measured."""

    a: np.ndarray  # (N, 2) float64 pixels
    b: np.ndarray  # (N, 2) float64 pixels
    covariance: np.ndarray  # (N, 3) float64 pixels^2: xx, xy, yy of the measured end
    measured_in_b: np.ndarray  # (N,) bool

    def __len__(self) -> int:
        return len(self.a)


def sample_matches(
    forward: Flow, backward: Flow, excluded_a: np.ndarray | None = None, excluded_b: np.ndarray | None = None
) -> Matches:
    """Consistent, informative matches of both directions on a regular grid.

    excluded: (h, w) bool, True where a pixel must not be used (it moves).
    """
    source_f, target_f, covariance_f = _sample(forward, excluded_a)
    source_b, target_b, covariance_b = _sample(backward, excluded_b)
    return Matches(
        a=np.concatenate([source_f, target_b]),
        b=np.concatenate([target_f, source_b]),
        covariance=np.concatenate([covariance_f, covariance_b]),
        measured_in_b=np.arange(len(source_f) + len(source_b)) < len(source_f),
    )


def _sample(flow: Flow, excluded: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = flow.cycle.shape
    step = max(1, int(np.sqrt(height * width / PER_DIRECTION)))
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    rows, columns = rows.ravel(), columns.ravel()
    covariance = _inverse(flow.information[:, rows, columns].T.astype(np.float64))
    usable = (flow.cycle[rows, columns] < MAX_CYCLE) & (_largest(covariance) < MAX_DEVIATION**2)
    if excluded is not None:
        usable &= ~excluded[rows, columns]
    source = np.stack([columns, rows], axis=-1)[usable].astype(np.float64)
    return source, source + flow.vectors[rows, columns][usable], covariance[usable]


def _inverse(symmetric: np.ndarray) -> np.ndarray:
    """(N, 3) xx, xy, yy -> the inverse in the same form; where there is no information, a very large variance."""
    xx, xy, yy = symmetric.T
    determinant = np.maximum(xx * yy - xy * xy, 1e-9)
    return np.stack([yy, -xy, xx], axis=-1) / determinant[:, None] + np.array([1e-6, 0.0, 1e-6])


def _largest(symmetric: np.ndarray) -> np.ndarray:
    """(N,) larger eigenvalue of (N, 3) xx, xy, yy."""
    xx, xy, yy = symmetric.T
    return (xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)
