"""The published alignment objective, minimised by a few Gauss-Newton steps instead of hundreds of gradient steps.

Distances become re-weighted least squares, and the depth of every pixel is eliminated by the Schur complement: a step
solves for poses, focal lengths and pair similarities alone. Coarse to fine: the curvature, a sum over very many pixels,
only ever comes from some of them; the full resolution contributes its gradient, so that the optimum is the exact one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from easi3r_lab.published import objective as reference
from easi3r_lab.published.initial import string_together
from easi3r_lab.published.solver_evaluate import Evaluation, Evaluator, Memory, Order, no_memory
from easi3r_lab.published.solver_state import (
    Observations,
    State,
    from_parameters,
    observe,
    pair_scales,
    subsample,
    thin,
    to_parameters,
)
from easi3r_lab.published.solver_system import UnknownLayout, factorise, gauss_newton, pose_covariance
from easi3r_ros.core.geometry import intrinsics

COARSE_PIXELS = 300  # per frame: enough for the curvature
DISTANCE_FLOOR = 1e-5  # of the typical depth: a distance below counts as none


@dataclass(frozen=True, eq=False)
class SolverOptions:
    """What to minimise and how far. Movers take no part unless `objective.static_weighting` is off (as published)."""

    objective: reference.ObjectiveOptions = field(
        default_factory=lambda: reference.ObjectiveOptions(static_weighting=True)
    )
    shared_focal: bool = True
    K: np.ndarray | None = None  # (3, 3) known intrinsics in pixels of the pointmaps; None: estimated focal length
    # Separate focal lengths are still of one camera: a relative deviation d from the start's mean costs focal_prior / 2
    # * d^2 of the point term. The objective hardly notices, but a frame's focal length and its distance to the scene
    # are nearly the same to it.
    focal_prior: float = 0.4
    tolerance: float = 3e-6  # relative to the objective: a step that promises less is the last


@dataclass(frozen=True, eq=False)
class BatchSolution:
    """World: the start's, or camera 0 if none was given; in units that make the pair scales' geometric mean 0.5."""

    world_from_cam: np.ndarray  # (T, 4, 4) float64
    K: np.ndarray  # (T, 3, 3) float64 pixels
    depth: torch.Tensor  # (T, h, w) float32 z-depth
    pair_scale: np.ndarray  # (P,) world units per pair unit
    covariance: np.ndarray  # (T, 6, 6) of (x, y, z, rot x, rot y, rot z), world axes, given the first frame's pose
    objective: float
    iterations: int  # passes over the pixels, coarse ones included
    parameters: reference.Parameters  # the same as published; focal length along u if K is known


def solve(
    problem: reference.Problem, options: SolverOptions | None = None, start: reference.Parameters | None = None
) -> BatchSolution:
    """Align a batch of pairs. start: where to begin; None: from the pairs themselves (`initial`).

    The covariance takes the errors of different pixels for independent; a network's are not, so it is a lower bound.
    Raises ValueError if a frame is in no pair, if the pairs do not connect all frames or do not determine their poses,
    or if the flow term is on and the problem has no flow.
    """
    with torch.inference_mode():
        solution = _solve(problem, options or SolverOptions(), start)
    # Clones can take part in a later gradient, tensors made in inference mode cannot.
    parameters = reference.Parameters(*(tensor.clone() for tensor in solution.parameters.tensors()))
    return replace(solution, depth=solution.depth.clone(), parameters=parameters)


def _solve(problem: reference.Problem, options: SolverOptions, start: reference.Parameters | None) -> BatchSolution:
    observations = _observe(problem, options)
    strides = _strides(observations.pixels)
    state, depth, initial = _start(problem, options, start, strides[0])
    layout = UnknownLayout(problem.frames, 0 if options.K is not None else len(state.focal), len(problem.edges))
    floor, focal = DISTANCE_FLOOR * float(depth.median()), float(state.focal.log().mean().exp())

    def evaluator(pixels: Observations, initial_log_depth: torch.Tensor | None) -> Evaluator:
        return Evaluator(pixels, options.objective, options.focal_prior, focal, layout, floor, initial_log_depth)

    def level(stride: int) -> Evaluator:
        thinned = None if initial is None else thin(initial, observations.shape, stride)
        return evaluator(subsample(observations, stride), thinned)

    memory = no_memory(observations)
    if not options.objective.depth_prior_weight:
        initial = None
    elif initial is None:  # the best depth at the poses to start from; flow does not count yet
        initial = evaluator(replace(observations, flow=None), None)(state, memory).depth.log()
    descent = Descent([level(stride) for stride in strides], options.tolerance)
    return _solution(options, descent.run(state, memory), descent)


def _observe(problem: reference.Problem, options: SolverOptions) -> Observations:
    height, width = problem.masks.shape[1:]
    K = intrinsics(1.0, (width, height)) if options.K is None else options.K
    principal, aspect = (float(K[0, 2]), float(K[1, 2])), float(K[1, 1] / K[0, 0])
    return observe(problem, principal, aspect, bool(options.objective.flow_weight))


def _strides(pixels: int) -> list[int]:
    """Two coarse levels and the full resolution; fewer if there are few pixels."""
    coarsest = 1
    while pixels / (2 * coarsest) ** 2 >= COARSE_PIXELS:
        coarsest *= 2
    return sorted({coarsest, max(1, coarsest // 2), 1}, reverse=True)


def _start(
    problem: reference.Problem, options: SolverOptions, start: reference.Parameters | None, stride: int
) -> tuple[State, torch.Tensor, torch.Tensor | None]:
    """State, some depths (for the unit), and the (T, n) initial log depth if it was given."""
    if start is None:
        static = options.objective.static_weighting
        found = string_together(problem, stride, options.K, static, options.shared_focal)
        state, depth, initial = found.state, found.depth, None
        first = torch.linalg.inv(state.world_from_cam[0])
        state = State(first @ state.world_from_cam, first @ state.world_from_pair, state.focal)
    else:
        state, initial = from_parameters(start), start.log_depth.flatten(1).float()
        depth = start.log_depth[:, ::stride, ::stride].exp()
    focal = state.focal.log().mean().exp()[None] if options.shared_focal else state.focals
    if options.K is not None:
        focal = torch.tensor([float(options.K[0, 0])], dtype=torch.float64)
    return State(state.world_from_cam, state.world_from_pair, focal), depth, initial


def _solution(options: SolverOptions, found: Evaluation, descent: Descent) -> BatchSolution:
    state, level = found.state, descent.levels[-1]
    depth = found.depth.unflatten(1, level.observations.shape)
    height, width = level.observations.shape
    K = [intrinsics(float(focal), (width, height)) if options.K is None else options.K for focal in state.focals]
    covariance = descent.noise * pose_covariance(level.layout, descent.factor())
    axes = torch.zeros(len(depth), 6, 6, dtype=torch.float64)
    axes[:, :3, :3] = axes[:, 3:, 3:] = state.world_from_cam[:, :3, :3]
    return BatchSolution(
        world_from_cam=state.world_from_cam.numpy(),
        K=np.stack(K).astype(np.float64),
        depth=depth,
        pair_scale=pair_scales(state).numpy(),
        covariance=(axes @ covariance @ axes.mT).numpy(),
        objective=found.objective,
        iterations=descent.passes,
        parameters=to_parameters(state, depth),
    )


COARSE_TOLERANCE = 3e-3  # relative: the optimum of so few pixels is no better than this on all
MAX_STEPS = 20  # per level
WORSE = 1e-6  # relative growth of the objective that is more than rounding
SLOW = 0.2  # a step that promises more than this share of what the one before it did
LEAST_DAMPING, MOST_DAMPING = 3e-4, 10.0  # Levenberg-Marquardt, see solver_system.factorise
DAMPING_GROWTH, DAMPING_DECAY = 100.0, 0.1
REMEMBERED = 5  # steps


@dataclass
class Descent:
    """Gauss-Newton with the curvature of the coarsest level, and with what changes of the gradient teach."""

    levels: list[Evaluator]  # from coarse to fine
    tolerance: float  # relative: a step that promises less is the last
    curvature: torch.Tensor | None = None  # (U, U) the newest
    noise: float = float("nan")  # see Evaluation.noise
    damping: float = LEAST_DAMPING
    passes: int = 0
    _factor: tuple[torch.Tensor, float, torch.Tensor] | None = None  # of which curvature, with which damping

    def run(self, state: State, memory: Memory) -> Evaluation:
        """The bottom on the finest level. Raises ValueError if the pairs do not determine poses at all."""
        for level in self.levels[:-1]:
            here, step = self._descend(level, state, memory, COARSE_TOLERANCE)
            state, memory = here.moved(step), here.after
        here, step = self._descend(self.levels[-1], state, memory, self.tolerance)
        self.damping = LEAST_DAMPING
        last = self._look(self.levels[-1], here.moved(step), here.after, here.depth_after(step), Order.VALUE)
        return here if _worse(last, here) else last

    def factor(self) -> torch.Tensor:
        """Cholesky, of the newest curvature, damped as far as necessary. Raises ValueError if nothing helps."""
        while self.damping <= MOST_DAMPING:
            known = self._factor
            if known is not None and known[0] is self.curvature and known[1] == self.damping:
                return known[2]
            factor = factorise(self.levels[0].layout, self.curvature, self.damping)
            if factor is not None:
                self._factor = self.curvature, self.damping, factor
                return factor
            self.damping *= DAMPING_GROWTH
        raise ValueError("the pairs do not determine poses: nothing static is left in them, or no confidence")

    def _descend(
        self, level: Evaluator, state: State, memory: Memory, tolerance: float
    ) -> tuple[Evaluation, torch.Tensor]:
        """Where the next step (U,) promises less than `tolerance`, and that step."""
        order = Order.CURVATURE if level is self.levels[0] else Order.GRADIENT
        here = self._look(level, state, memory, None, order)
        self.damping = LEAST_DAMPING
        directions, factor, before = _Directions(), self.factor(), float("inf")
        for _ in range(MAX_STEPS):
            step = directions.step(factor, here.gradient)
            gain = -0.5 * float(here.gradient @ step) / here.value
            if here.comparable and gain < tolerance:
                break
            there = self._look(level, here.moved(step), here.after, here.depth_after(step), order)
            if _worse(there, here):
                directions = _Directions()
                self.damping *= DAMPING_GROWTH
                if self.damping > MOST_DAMPING:
                    return here, torch.zeros_like(step)
                if order is Order.CURVATURE:
                    self.curvature = here.curvature
                factor = self.factor()
                continue
            if here.comparable:
                directions.learn(step, there.gradient - here.gradient)
            if order is Order.GRADIENT and gain > SLOW * before:
                self._look(self.levels[0], there.state, there.after, None, Order.CURVATURE)
            if order is Order.CURVATURE or gain > SLOW * before:
                self.damping = max(self.damping * DAMPING_DECAY, LEAST_DAMPING)
                factor = self.factor()
            here, before = there, gain
        return here, step

    def _look(
        self, level: Evaluator, state: State, memory: Memory, depth: torch.Tensor | None, order: Order
    ) -> Evaluation:
        self.passes += 1
        seen = level(state, memory, depth, order)
        if seen.curvature is not None:
            self.curvature, self.noise = seen.curvature, seen.noise
        return seen


def _worse(there: Evaluation, here: Evaluation) -> bool:
    """Also if it is not a number. Where other terms count than before, nothing can be said."""
    return here.comparable and not there.value <= here.value * (1 + WORSE)


class _Directions:
    """L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) that starts from Gauss-Newton.

    Re-weighted least squares bends too much in some directions and too little in others; two or three observed changes
    of the gradient put that right.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=REMEMBERED)

    def learn(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """The gradient changed by `change` (U,) over `step` (U,)."""
        if float(step @ change) > 0:
            self._seen.append((step, change))

    def step(self, factor: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """(U,) from where the gradient is `gradient` (U,); factor: of the curvature."""
        q, shares = gradient, []
        for step, change in reversed(self._seen):
            shares.append(float(step @ q) / float(step @ change))
            q = q - shares[-1] * change
        x = gauss_newton(factor, q)
        for (step, change), share in zip(self._seen, reversed(shares), strict=True):
            x = x - (share + float(change @ x) / float(step @ change)) * step
        return x
