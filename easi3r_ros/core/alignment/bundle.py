"""Poses and point depths of many frames at once, from where frames see each other's points: bundle adjustment.

Levenberg-Marquardt on the robust reprojection error. A point is a pixel of a frame with a depth along its own ray,
which the Schur complement eliminates; what is left couples only frames that see the same points, so that a frame costs
the same in a long recording as in a short one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu

from easi3r_ros.core.alignment.bundle_tile import BundleState, Sightings, Tile, linearise, views
from easi3r_ros.core.geometry import se3_exp

NOISE_FLOOR = 3e-4  # radians; flow is not better than a tenth of a pixel, however small the spread
SETTLED = 0.8  # change of sigma that does not change the outcome any more
LEAST_DAMPING, MOST_DAMPING = 1e-6, 1e2
DAMPING_GROWTH, DAMPING_DECAY = 10.0, 0.1
# The matrix is symmetric and positive; the focal length touches all frames and must be eliminated last.
ELIMINATION = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}


@dataclass(frozen=True)
class Prior:
    """How well the start is known."""

    depth_precision: torch.Tensor  # (T, N) float32 > 0, inverse variance of the log depth
    focal_sigma: float  # standard deviation of the log focal length; 0: it is known


@dataclass(frozen=True)
class Bundle:
    """The outcome. The gauge (where the world's origin is) stays that of the start, the scale is its points' depth."""

    state: BundleState
    information: torch.Tensor  # (T, 6, 6) float64 of the cameras' twists (translation, rotation), the others given
    residual_before: float  # radians; median reprojection error at the start
    residual: float  # the same at the end
    passes: int


def adjust(
    sightings: Sightings, start: BundleState, prior: Prior, most_passes: int = 30, tolerance: float = 1e-3
) -> Bundle:
    """Minimise sum weight * cauchy(reprojection error / sigma) + prior from `start`.

    sigma follows the errors (median absolute deviation): first those at the start, then those of what came of it.
    tolerance: relative decrease of the cost below which it is enough. Raises ValueError if nothing is seen.
    """
    if not bool((sightings.weight > 0).any()):
        raise ValueError("no point of any frame is seen by another")
    problem = _Problem(sightings, start, prior)
    state, before, passes = start, problem.median_error(start), 0
    error = before
    while True:
        sigma = max(NOISE_FLOOR, 1.4826 * error)
        here, steps = _descend(problem, state, sigma, most_passes - passes, tolerance)
        state, passes, error = here.state, passes + steps, problem.median_error(here.state)
        if passes >= most_passes or 1.4826 * error > SETTLED * sigma or sigma == NOISE_FLOOR:
            return Bundle(state, here.information(), before, error, passes)


def _descend(
    problem: _Problem, state: BundleState, sigma: float, most_passes: int, tolerance: float
) -> tuple[_Linear, int]:
    """The bottom for one scale of the loss, and the passes that it took."""
    here, damping, passes = problem.linearised(state, sigma), LEAST_DAMPING, 1
    while passes < most_passes and damping <= MOST_DAMPING:
        there = problem.linearised(here.moved(damping), sigma)
        passes += 1
        if not there.cost <= here.cost:
            damping *= DAMPING_GROWTH
            continue
        gain, here, damping = here.cost - there.cost, there, max(damping * DAMPING_DECAY, LEAST_DAMPING)
        if gain < tolerance * here.cost:
            break
    return here, passes


class _Problem:
    """What does not change from step to step. Unknowns: (T, 6) twists of the cameras, log focal length, depths."""

    def __init__(self, sightings: Sightings, start: BundleState, prior: Prior):
        mean = float(sightings.weight[sightings.weight > 0].mean())
        weight = sightings.weight / mean  # so that information counts points
        self._sightings = Sightings(sightings.pixels, sightings.observer, sightings.seen, weight)
        self._start, self._prior = start, prior
        self.frames, slots = sightings.observer.shape
        self.cameras = torch.cat([sightings.observer, torch.arange(self.frames)[:, None]], 1)  # (T, S + 1)
        self.focal = 6 * self.frames
        pose = 6 * self.cameras[..., None] + torch.arange(6)
        self.index = torch.cat([pose.flatten(1), torch.full((self.frames, 1), self.focal)], 1)  # (T, G)

    @property
    def free(self) -> slice:
        """Of the unknowns."""
        return slice(0, self.focal + (self._prior.focal_sigma > 0))

    def median_error(self, state: BundleState) -> float:
        """Radians."""
        errors = [view.error2[view.weight > 0] for view in self._views(state)]
        return float(torch.cat(errors).median().sqrt())

    def linearised(self, state: BundleState, sigma: float) -> _Linear:
        precision, change = self._prior.depth_precision, state.log_depth - self._start.log_depth
        focal_precision, focal_change = self.focal_prior(state)
        cost = (precision * change.square()).sum(dtype=torch.float64) + focal_precision * focal_change**2
        tiles = []
        for view in self._views(state):
            cost += (view.weight * torch.log1p(view.error2 / sigma**2)).sum(dtype=torch.float64)
            tiles.append(linearise(view, sigma, precision[view.frames], change[view.frames]))
        return _Linear(self, state, 0.5 * float(cost), tiles)

    def focal_prior(self, state: BundleState) -> tuple[float, float]:
        """Precision of the log focal length, and how far it is from the start."""
        sigma = self._prior.focal_sigma
        return (sigma**-2 if sigma else 0.0), float((state.K[0, 0] / self._start.K[0, 0]).log())

    def _views(self, state: BundleState):
        return views(self._sightings, state, float(self._start.K[0, 0]))


@dataclass(frozen=True)
class _Linear:
    """The problem around a state."""

    problem: _Problem
    state: BundleState
    cost: float
    tiles: list[Tile]

    def moved(self, damping: float) -> BundleState:
        """The state after one step."""
        problem, size = self.problem, self.problem.focal + 1
        values, rows, columns = [], [], []
        gradient = torch.zeros(size, dtype=torch.float64)
        for tile in self.tiles:
            curvature, pull = tile.reduced(damping)
            at = problem.index[tile.frames]  # (t, G)
            gradient.index_add_(0, at.flatten(), pull.flatten())
            values.append(curvature.flatten())
            rows.append(at[:, :, None].expand_as(curvature).flatten())
            columns.append(at[:, None].expand_as(curvature).flatten())
        entries = (torch.cat(part).numpy() for part in (values, rows, columns))
        value, row, column = entries
        matrix = coo_matrix((value, (row, column)), shape=(size, size)).tocsc()
        precision, change = problem.focal_prior(self.state)
        gradient[problem.focal] += precision * change
        diagonal = matrix.diagonal()
        # Levenberg-Marquardt; a frame without any sighting needs something on its diagonal.
        stiffer = damping * diagonal + 1e-9 * diagonal[: problem.focal].mean()
        stiffer[problem.focal] += precision
        matrix, free = (matrix + diags(stiffer)).tocsc(), problem.free
        step = torch.zeros(size, dtype=torch.float64)
        step[free] = -torch.from_numpy(splu(matrix[free, free], **ELIMINATION).solve(gradient.numpy()[free]))
        return self._after(step, damping)

    def _after(self, step: torch.Tensor, damping: float) -> BundleState:
        focal = self.problem.focal
        poses = self.state.world_from_cam @ se3_exp(step[:focal].unflatten(0, (-1, 6)))
        log_depth, K = self.state.log_depth.clone(), self.state.K.clone()
        for tile in self.tiles:
            log_depth[tile.frames] += tile.depth_step(step[self.problem.index[tile.frames]], damping)
        K.diagonal()[:2] *= step[focal].exp()
        return BundleState(poses, log_depth, K)

    def information(self) -> torch.Tensor:
        """(T, 6, 6) diagonal blocks of the curvature, depth eliminated."""
        blocks = torch.zeros(self.problem.frames, 6, 6, dtype=torch.float64)
        for tile in self.tiles:
            curvature, _ = tile.reduced(0.0)
            for slot, camera in enumerate(self.problem.cameras[tile.frames].T):
                part = slice(6 * slot, 6 * slot + 6)
                blocks.index_add_(0, camera, curvature[:, part, part])
        return blocks
