"""Poses and point depths of many frames at once, from where frames see each other's points: bundle adjustment.

Levenberg-Marquardt on the robust reprojection error. A point is a pixel of a frame with a depth along its own ray,
which the Schur complement eliminates; what is left couples only frames that see the same points, so that a frame costs
the same in a long recording as in a short one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu

from easi3r_ros.core.geometry import hat, invert_se3, se3_exp

NEAREST = 1e-3  # of a point's depth in its own frame: closer to another camera it would dominate through 1/z
LARGEST_DEPTH_STEP = 0.5  # of log depth
FRAMES_AT_ONCE = 32  # bounds the memory of a pass
NOISE_FLOOR = 3e-4  # radians; flow is not better than a tenth of a pixel, however small the spread
SETTLED = 0.8  # change of sigma that does not change the outcome any more
LEAST_DAMPING, MOST_DAMPING = 1e-6, 1e2
DAMPING_GROWTH, DAMPING_DECAY = 10.0, 0.1
# The matrix is symmetric and positive; the focal length touches all frames and must be eliminated last.
ELIMINATION = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}


@dataclass(frozen=True)
class Sightings:
    """N points of each of T frames, and where up to S other frames see them (fewer: weight zero)."""

    pixels: torch.Tensor  # (N, 2) float32: the points of every frame are these pixels of it
    observer: torch.Tensor  # (T, S) int64: frame by which they are seen
    seen: torch.Tensor  # (T, S, N, 2) float32 pixels of the observer
    weight: torch.Tensor  # (T, S, N) float32 >= 0


@dataclass(frozen=True)
class BundleState:
    world_from_cam: torch.Tensor  # (T, 4, 4) float64
    log_depth: torch.Tensor  # (T, N) float32, world units
    K: torch.Tensor  # (3, 3) float64 pixels, of all frames


@dataclass(frozen=True)
class Views:
    """The points of t frames in the cameras of their observers.

    Image coordinates are pixels divided by the focal length that was started with: they are angles, and do not shrink
    while the focal length grows.
    """

    frames: slice
    observer_from_frame: torch.Tensor  # (t, S, 4, 4) float64
    image: torch.Tensor  # (t, S, 2, N) x / z, y / z
    inverse: torch.Tensor  # (t, S, N) 1 / z; 0 for points that are not in front of the observer
    by_depth: torch.Tensor  # (t, S, 3, N) derivative of the point by log depth
    by_focal: torch.Tensor  # (t, S, 3, N) derivative of the point by log focal length
    zoom: float  # focal length by that of the start
    residual: torch.Tensor  # (t, S, 2, N) image coordinates
    error2: torch.Tensor  # (t, S, N) squared; 1 for points that are not in front of the observer
    weight: torch.Tensor  # (t, S, N)

    def by_twist(self) -> torch.Tensor:
        """(t, S, 6, 2, N) derivative of the image coordinates by a twist of the points in the observer's axes."""
        (x, y), inverse = self.image.unbind(2), self.inverse
        zero = torch.zeros_like(x)
        u = torch.stack([inverse, zero, -x * inverse, -x * y, 1 + x * x, -y], 2)
        v = torch.stack([zero, inverse, -y * inverse, -(1 + y * y), x * y, x], 2)
        return self.zoom * torch.stack([u, v], 3)

    def projected(self, change: torch.Tensor) -> torch.Tensor:
        """(t, S, 2, N) derivative of the image coordinates, from that of the points (t, S, 3, N)."""
        scale = self.zoom * self.inverse[:, :, None]
        return scale * (change[:, :, :2] - self.image * change[:, :, 2:])


def views(sightings: Sightings, state: BundleState, start_focal: float) -> Iterator[Views]:
    """All frames, some at a time."""
    for first in range(0, len(sightings.observer), FRAMES_AT_ONCE):
        yield _views(sightings, state, start_focal, slice(first, first + FRAMES_AT_ONCE))


def _views(sightings: Sightings, state: BundleState, start_focal: float, frames: slice) -> Views:
    K = state.K.float()
    focal, centre = K.diagonal()[:2], K[:2, 2]
    zoom = float(state.K[0, 0]) / start_focal
    rays = ((sightings.pixels - centre) / focal).mT  # (2, N)
    cam_from_world = invert_se3(state.world_from_cam)
    relative = cam_from_world[sightings.observer[frames]] @ state.world_from_cam[frames, None]  # (t, S, 4, 4)
    turn, offset = relative[..., :3, :3].float(), relative[..., :3, 3:].float()
    depth = state.log_depth[frames].exp()[:, None, None]  # (t, 1, 1, N)
    across = (turn[..., :2] @ rays) * depth
    by_depth = across + turn[..., 2:] * depth
    points = by_depth + offset
    front = points[:, :, 2] > NEAREST * depth[:, :, 0]
    inverse = torch.where(front, 1.0 / points[:, :, 2], 0.0)
    image = points[:, :, :2] * inverse[:, :, None]
    residual = zoom * (image - ((sightings.seen[frames] - centre) / focal).mT)
    return Views(
        frames=frames,
        observer_from_frame=relative,
        image=image,
        inverse=inverse,
        by_depth=by_depth,
        by_focal=-across,  # a longer focal length narrows the rays
        zoom=zoom,
        residual=residual,
        error2=torch.where(front, residual.square().sum(2), 1.0),
        weight=sightings.weight[frames],
    )


@dataclass(frozen=True)
class Tile:
    """Least squares of t frames. Local unknowns, L = 6 S + 1: twists by which the points move against each observer, in
    its axes, and log focal length. Global ones, G = 6 S + 7: twists of the observers, of the frame, log focal length.
    """

    frames: slice
    curvature: torch.Tensor  # (t, L, L) float64, depth not yet eliminated
    gradient: torch.Tensor  # (t, L) float64
    coupling: torch.Tensor  # (t, L, N) float32, with log depth
    depth_curvature: torch.Tensor  # (t, N)
    depth_gradient: torch.Tensor  # (t, N)
    local_from_global: torch.Tensor  # (t, L, G) float64

    def reduced(self, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(t, G, G) curvature and (t, G) gradient, depth eliminated (Schur complement)."""
        scaled = self.coupling / self._stiffness(damping)[:, None]
        curvature = self.curvature - (scaled @ self.coupling.mT).double()
        gradient = self.gradient - (scaled @ self.depth_gradient[..., None])[..., 0].double()
        into = self.local_from_global
        return into.mT @ curvature @ into, (into.mT @ gradient[..., None])[..., 0]

    def depth_step(self, step: torch.Tensor, damping: float) -> torch.Tensor:
        """(t, N) of log depth, for a step (t, G) of the others."""
        local = (self.local_from_global @ step[..., None]).to(self.coupling)
        pull = self.depth_gradient + (local.mT @ self.coupling)[:, 0]
        return (-pull / self._stiffness(damping)).clamp(-LARGEST_DEPTH_STEP, LARGEST_DEPTH_STEP)

    def _stiffness(self, damping: float) -> torch.Tensor:
        return (1.0 + damping) * self.depth_curvature


def linearise(view: Views, sigma: float, depth_precision: torch.Tensor, depth_change: torch.Tensor) -> Tile:
    """Around the state of `view`, re-weighted for the Cauchy loss with scale `sigma`.

    depth_precision: (t, N) > 0 of the log depth that was started with; depth_change: (t, N) since then.
    """
    weight = view.weight / (1.0 + view.error2 / sigma**2) / sigma**2
    twist = view.by_twist()  # (t, S, 6, 2, N)
    depth = view.projected(view.by_depth)  # (t, S, 2, N)
    focal = view.projected(view.by_focal) + view.zoom * view.image * (view.inverse > 0)[:, :, None]
    weighted = twist * weight[:, :, None, None]
    pull = (weight[:, :, None] * view.residual).flatten(2)  # (t, S, 2 N)
    by_focal = (weight[:, :, None] * focal).flatten(2)
    normal = weighted.flatten(3) @ twist.flatten(3).mT  # (t, S, 6, 6)
    with_focal = twist.flatten(3) @ by_focal[..., None]  # (t, S, 6, 1)
    curvature = _arrow(normal, with_focal, (by_focal * focal.flatten(2)).sum((1, 2)))
    gradient = (twist.flatten(3) @ pull[..., None]).flatten(1), (focal.flatten(2) * pull).sum((1, 2))[:, None]
    coupling = (weighted * depth[:, :, None]).sum(3).flatten(1, 2), (weight[:, :, None] * focal * depth).sum((1, 2))
    return Tile(
        frames=view.frames,
        curvature=curvature,
        gradient=torch.cat(gradient, 1).double(),
        coupling=torch.cat([coupling[0], coupling[1][:, None]], 1),
        depth_curvature=(weight * depth.square().sum(2)).sum(1) + depth_precision,
        depth_gradient=(weight * (depth * view.residual).sum(2)).sum(1) + depth_precision * depth_change,
        local_from_global=_local_from_global(view.observer_from_frame),
    )


def _arrow(blocks: torch.Tensor, border: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """(t, L, L) float64 with (t, S, 6, 6) blocks on the diagonal, bordered by (t, S, 6, 1) and (t,)."""
    count, slots = blocks.shape[:2]
    matrix = torch.zeros(count, 6 * slots + 1, 6 * slots + 1, dtype=torch.float64)
    for slot in range(slots):
        matrix[:, 6 * slot : 6 * slot + 6, 6 * slot : 6 * slot + 6] = blocks[:, slot]
    matrix[:, :-1, -1] = matrix[:, -1, :-1] = border.flatten(1).double()
    matrix[:, -1, -1] = corner
    return matrix


def _local_from_global(observer_from_frame: torch.Tensor) -> torch.Tensor:
    """(t, L, G): relative twist = adjoint(observer_from_frame) own twist - observer's twist."""
    count, slots = observer_from_frame.shape[:2]
    turn, offset = observer_from_frame[..., :3, :3], observer_from_frame[..., :3, 3]
    own = torch.zeros(count, slots, 6, 6, dtype=torch.float64)
    own[..., :3, :3] = own[..., 3:, 3:] = turn
    own[..., :3, 3:] = hat(offset) @ turn
    matrix = torch.zeros(count, 6 * slots + 1, 6 * slots + 7, dtype=torch.float64)
    matrix[:, :-1, : 6 * slots] = -torch.eye(6 * slots, dtype=torch.float64)
    matrix[:, :-1, 6 * slots : -1] = own.flatten(1, 2)
    matrix[:, -1, -1] = 1.0
    return matrix


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
