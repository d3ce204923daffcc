"""The published alignment objective, minimised by a few Gauss-Newton steps instead of hundreds of gradient steps.

Distances become re-weighted least squares, and the depth of every pixel is eliminated by the Schur complement: a step
solves for poses, focal lengths and pair similarities alone. Coarse to fine: the curvature, a sum over very many pixels,
only ever comes from some of them; the full resolution contributes its gradient, so that the optimum is the exact one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from easi3r_lab.published import objective as reference
from easi3r_lab.published.initial import string_together
from easi3r_lab.published.solver_descent import Descent
from easi3r_lab.published.solver_evaluate import Evaluation, Evaluator, no_memory
from easi3r_lab.published.solver_observations import Observations, observe, subsample, thin
from easi3r_lab.published.solver_state import State, from_parameters, pair_scales, to_parameters
from easi3r_lab.published.solver_system import Layout, pose_covariance
from easi3r_ros.core.geometry import intrinsics

COARSE_PIXELS = 300  # per frame: enough for the curvature
DISTANCE_FLOOR = 1e-5  # of the typical depth: a distance below counts as none


@dataclass(frozen=True, eq=False)
class SolverOptions:
    """What to minimise and how far. Movers take no part unless `objective.static_weighting` is off (as published)."""

    objective: reference.Options = field(default_factory=lambda: reference.Options(static_weighting=True))
    shared_focal: bool = True
    K: np.ndarray | None = None  # (3, 3) known intrinsics in pixels of the pointmaps; None: estimated focal length
    # Separate focal lengths are still of one camera: a relative deviation d from the start's mean costs focal_prior / 2
    # * d^2 of the point term. The objective hardly notices, but a frame's focal length and its distance to the scene
    # are nearly the same to it.
    focal_prior: float = 0.4
    tolerance: float = 3e-6  # relative to the objective: a step that promises less is the last


@dataclass(frozen=True, eq=False)
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
    with torch.inference_mode():
        solution = _solve(problem, options or SolverOptions(), start)
    # Clones can take part in a later gradient, tensors made in inference mode cannot.
    parameters = reference.Parameters(*(tensor.clone() for tensor in solution.parameters.tensors()))
    return replace(solution, depth=solution.depth.clone(), parameters=parameters)


def _solve(problem: reference.Problem, options: SolverOptions, start: reference.Parameters | None) -> Solution:
    observations = _observe(problem, options)
    strides = _strides(observations.pixels)
    state, depth, initial = _start(problem, options, start, strides[0])
    layout = Layout(problem.frames, 0 if options.K is not None else len(state.focal), len(problem.edges))
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


def _solution(options: SolverOptions, found: Evaluation, descent: Descent) -> Solution:
    state, level = found.state, descent.levels[-1]
    depth = found.depth.unflatten(1, level.observations.shape)
    height, width = level.observations.shape
    K = [intrinsics(float(focal), (width, height)) if options.K is None else options.K for focal in state.focals]
    covariance = descent.noise * pose_covariance(level.layout, descent.factor())
    axes = torch.zeros(len(depth), 6, 6, dtype=torch.float64)
    axes[:, :3, :3] = axes[:, 3:, 3:] = state.world_from_cam[:, :3, :3]
    return Solution(
        world_from_cam=state.world_from_cam.numpy(),
        K=np.stack(K).astype(np.float64),
        depth=depth,
        pair_scale=pair_scales(state).numpy(),
        covariance=(axes @ covariance @ axes.mT).numpy(),
        objective=found.objective,
        iterations=descent.passes,
        parameters=to_parameters(state, depth),
    )
