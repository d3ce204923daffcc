"""The published alignment objective, minimised by a few Gauss-Newton steps instead of hundreds of gradient steps.

Distances become re-weighted least squares, and the depth of every pixel is eliminated by the Schur complement: a step
solves for poses, focal lengths and pair similarities alone. Coarse to fine: the curvature, a sum over very many pixels,
only ever comes from some of them; the full resolution contributes its gradient, so that the optimum is the exact one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from easi3r_ros.core.alignment import reference
from easi3r_ros.core.alignment.initial import string_together
from easi3r_ros.core.alignment.solver_direction import Directions
from easi3r_ros.core.alignment.solver_evaluate import Evaluation, Evaluator, Memory, no_memory
from easi3r_ros.core.alignment.solver_observations import Observations, observe, subsample
from easi3r_ros.core.alignment.solver_state import State, from_parameters, pair_scales, retract, to_parameters
from easi3r_ros.core.alignment.solver_system import Layout, factorise, pose_covariance
from easi3r_ros.core.geometry import intrinsics

COARSE_PIXELS = 300  # per frame: enough for the curvature
COARSE_TOLERANCE = 3e-3  # relative: the optimum of so few pixels is no better than this on all
STEADY = 0.02  # relative gain of a step below which the curvature need not be computed again
MAX_PASSES = 12  # per level
WORSE = 1e-6  # relative growth of the objective that is more than rounding
SHRINK, SMALLEST_SHARE = 0.25, 1e-2  # of a step that made things worse
DISTANCE_FLOOR = 1e-5  # of the typical depth: a distance below counts as none


@dataclass(frozen=True)
class SolverOptions:
    """What to minimise and how far. Movers take no part unless `objective.static_weighting` is off (as published)."""

    objective: reference.Options = field(default_factory=lambda: reference.Options(static_weighting=True))
    shared_focal: bool = True
    K: np.ndarray | None = None  # (3, 3) known intrinsics in pixels of the pointmaps; None: estimated focal length
    # Separate focal lengths are still of one camera: a relative deviation d costs focal_prior / 2 * d^2 of the point
    # term. The objective hardly notices, but along the viewing direction motion and focal length look nearly the same.
    focal_prior: float = 0.4
    tolerance: float = 1e-5  # relative to the objective: a step that promises less is the last


@dataclass(frozen=True)
class Solution:
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
) -> Solution:
    """Align a batch of pairs. start: where to begin; None: from the pairs themselves (`initial`).

    The covariance takes the errors of different pixels for independent; a network's are not, so it is a lower bound.
    Raises ValueError if a frame is in no pair, if the pairs do not connect all frames or do not determine their poses,
    or if the flow term is on and the problem has no flow.
    """
    options = options or SolverOptions()
    observations = _observe(problem, options)
    strides = _strides(observations.pixels)
    state, depth, initial = _start(problem, options, start, strides[0])
    layout = Layout(problem.frames, 0 if options.K is not None else len(state.focal), len(problem.edges))
    run = _Run(options, layout, observations, DISTANCE_FLOOR * float(depth.median()), state, no_memory(observations))
    if options.objective.depth_prior_weight:
        run.initial_log_depth = run.level(1)(state, run.memory).depth.log() if initial is None else initial
    for stride in strides:
        evaluation = run.descend(stride)
    return _solution(options, observations, evaluation, run)


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
        found = string_together(problem, stride, options.K, static)
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


class _Run:
    """A descent from level to level."""

    def __init__(
        self,
        options: SolverOptions,
        layout: Layout,
        full: Observations,
        distance_floor: float,
        state: State,
        memory: Memory,
    ):
        self.options, self.layout, self.full, self.distance_floor = options, layout, full, distance_floor
        self.state, self.memory = state, memory
        self.initial_log_depth: torch.Tensor | None = None  # (T, n) at full resolution
        self.factor: torch.Tensor | None = None  # of the newest curvature
        self.coarsest = _strides(full.pixels)[0]
        self.gain = float("inf")  # relative, promised by the newest step
        self.noise = float("nan")
        self.passes = 0

    def level(self, stride: int) -> Evaluator:
        initial = self.initial_log_depth
        if initial is not None:
            step = slice(stride // 2, None, stride)
            initial = initial.unflatten(1, self.full.shape)[:, step, step].flatten(1)
        return Evaluator(
            subsample(self.full, stride),
            self.options.objective,
            self.options.focal_prior,
            self.layout,
            self.distance_floor,
            initial,
        )

    def descend(self, stride: int) -> Evaluation:
        """Go down on every `stride`-th pixel. Returns the last evaluation; `state` may already be a step further."""
        evaluate, fine = self.level(stride), stride == 1
        tolerance = self.options.tolerance if fine else COARSE_TOLERANCE
        best, step, share, depth = None, None, 1.0, None
        done = False
        directions = Directions()
        for _ in range(MAX_PASSES):
            new = evaluate(self.state, self.memory, depth, stride == self.coarsest)
            self.passes += 1
            if best is not None and best.comparable and not new.value <= best.value * (1 + WORSE):
                share *= SHRINK
                if share < SMALLEST_SHARE:
                    break
                self.state, depth = self._moved(best, share * step)
                continue
            if best is not None and best.comparable:
                directions.learn(share * step, new.gradient - best.gradient)
            best, share, self.memory = new, 1.0, new.after
            if done:
                break
            if new.curvature is not None:
                self.factor, self.noise = factorise(self.layout, new.curvature), new.noise
            step = directions.step(self.factor, new.gradient)
            self.gain = -0.5 * float(new.gradient @ step) / new.value
            self.state, depth = self._moved(new, step)
            done = new.comparable and self.gain < tolerance
            if done and not fine:
                break
        return best

    def _moved(self, evaluation: Evaluation, step: torch.Tensor) -> tuple[State, torch.Tensor]:
        return retract(evaluation.state, *self.layout.split(step)), evaluation.depth_after(step)


def _solution(options: SolverOptions, observations: Observations, best: Evaluation, run: _Run) -> Solution:
    state = best.state
    depth = best.depth.unflatten(1, observations.shape)
    K = np.tile(np.eye(3), (len(depth), 1, 1))
    if options.K is None:
        height, width = observations.shape
        K = np.stack([intrinsics(float(focal), (width, height)) for focal in state.focals])
    else:
        K[:] = options.K
    covariance = run.noise * pose_covariance(run.layout, run.factor)
    axes = torch.zeros(len(depth), 6, 6, dtype=torch.float64)
    axes[:, :3, :3] = axes[:, 3:, 3:] = state.world_from_cam[:, :3, :3]
    return Solution(
        world_from_cam=state.world_from_cam.numpy(),
        K=K,
        depth=depth,
        pair_scale=pair_scales(state).numpy(),
        covariance=(axes @ covariance @ axes.mT).numpy(),
        objective=best.objective,
        iterations=run.passes,
        parameters=to_parameters(state, depth),
    )
