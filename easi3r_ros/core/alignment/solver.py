"""The published alignment objective, minimised by a few Gauss-Newton steps instead of hundreds of gradient steps.

All distances are re-weighted least squares; the depth of every pixel is eliminated by the Schur complement, so that a
step solves for poses, focal lengths and pair similarities alone. Coarse to fine: curvature is only ever computed on a
subset of the pixels, because it is a sum over so many of them; the full resolution contributes its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from easi3r_ros.core.alignment import reference
from easi3r_ros.core.alignment.solver_evaluate import Evaluation, Evaluator, Memory
from easi3r_ros.core.alignment.solver_observations import Observations, observe, subsample
from easi3r_ros.core.alignment.solver_state import State, from_parameters, pair_scales, retract, to_parameters
from easi3r_ros.core.alignment.solver_system import Layout, factorise, gauss_newton, pose_covariance

COARSE_PIXELS = 300  # per frame: enough for the curvature
COARSE_TOLERANCE = 3e-3  # relative; about what the coarse optimum is off by
MAX_PASSES = 12  # per level
SMALLEST_SHARE = 1 / 16  # of a step that made things worse


@dataclass(frozen=True)
class SolverOptions:
    """What to minimise and how far. Movers take no part unless `objective.static_weighting` is off (as published)."""

    objective: reference.Options = field(default_factory=lambda: reference.Options(static_weighting=True))
    shared_focal: bool = True
    K: np.ndarray | None = None  # (3, 3) known intrinsics, pixels of the pointmaps; None: focal length is estimated
    # Separate focal lengths still belong to one camera: a relative deviation d costs focal_prior / 2 * d^2 of the
    # objective. Hardly seen in the objective, but forward motion and focal length are nearly interchangeable.
    focal_prior: float = 0.25
    tolerance: float = 1e-5  # relative to the objective: stop once the next step promises less; the step is still made


@dataclass(frozen=True)
class Solution:
    """World: as the start's, or camera 0 if there was none; units such that pair scales have geometric mean 0.5."""

    world_from_cam: np.ndarray  # (T, 4, 4) float64
    K: np.ndarray  # (T, 3, 3) float64 pixels
    depth: torch.Tensor  # (T, h, w) float32
    pair_scale: np.ndarray  # (P,) world units per pair unit
    covariance: np.ndarray  # (T, 6, 6) of (x, y, z, rot x, rot y, rot z), world axes, relative to the first frame
    objective: float
    passes: int  # evaluations of gradient or curvature, coarse ones included
    parameters: reference.Parameters  # the same, as published


def solve(
    problem: reference.Problem, options: SolverOptions | None = None, start: reference.Parameters | None = None
) -> Solution:
    """Align a batch of pairs. start: where to begin; None: from the pairs themselves.

    Raises ValueError if a frame is in no pair, the pairs do not connect all frames or do not determine their poses, or
    if the flow term is on and the problem has no flow.
    """
    options = options or SolverOptions()
    observations = _observe(problem, options)
    state = _start_state(start, options)
    layout = Layout(problem.frames, 0 if options.K is not None else len(state.focal), len(problem.edges))
    run = _Run(options, layout, observations, state, start)
    for stride in _strides(observations.pixels):
        run.descend(stride)
    return run.finish()


def _observe(problem, options) -> Observations:
    height, width = problem.masks.shape[1:]
    principal, aspect = (width / 2, height / 2), 1.0
    if options.K is not None:
        principal, aspect = tuple(options.K[:2, 2]), float(options.K[1, 1] / options.K[0, 0])
    return observe(problem, principal, aspect, bool(options.objective.flow_weight))


def _strides(pixels: int) -> list[int]:
    coarse = 1
    while pixels / (2 * coarse) ** 2 >= COARSE_PIXELS:
        coarse *= 2
    return sorted({coarse, max(1, coarse // 2), 1}, reverse=True)


def _start_state(start, options) -> State:
    state = from_parameters(start, options.shared_focal or options.K is not None)
    if options.K is not None:
        state = State(state.world_from_cam, state.world_from_pair, torch.tensor([options.K[0, 0]], dtype=torch.float64))
    return state


class _Run:
    """Where the descent is."""

    def __init__(self, options, layout, observations, state, start):
        self.options, self.layout, self.full, self.state = options, layout, observations, state
        self.memory = no_memory(layout.frames, observations.points.device)
        self.initial = start.log_depth.flatten(1) if options.objective.depth_prior_weight else None
        self.floor = 1e-5 * float(start.log_depth.median().exp())
        self.factor = None
        self.passes = 0
        self.depth = None
        self.trace = []

    def descend(self, stride):
        fine = stride == 1
        o = subsample(self.full, stride)
        initial = None
        if self.initial is not None:
            initial = self.initial.unflatten(1, self.full.shape)[:, stride // 2 :: stride, stride // 2 :: stride].flatten(1)
        evaluate = Evaluator(self.options.objective, self.options.focal_prior, self.layout, self.floor, initial)
        depth = None
        best = None
        share = 1.0
        for _ in range(MAX_PASSES):
            e = evaluate(o, self.state, self.memory, depth, with_curvature=not fine or self.factor is None)
            self.passes += 1
            if best is not None and e.value > best[0].value * (1 + 1e-7) and best[0].memory.flow_on == e.memory.flow_on and share > SMALLEST_SHARE and best[2]:
                share /= 4
                self.state = retract(best[0].state, *self.layout.split(share * best[1]))
                depth = best[0].depth_after(share * best[1])
                self.trace.append((stride, e.value, "worse"))
                continue
            share = 1.0
            if e.curvature is not None:
                self.factor = factorise(self.layout, e.curvature)
            x = gauss_newton(self.factor, e.gradient)
            gain = -0.5 * float(e.gradient @ x) / e.value
            comparable = self.memory.flow_on == e.memory.flow_on
            self.memory = e.memory
            best = (e, x, comparable)
            depth = e.depth_after(x)
            self.state = retract(self.state, *self.layout.split(x))
            self.trace.append((stride, e.value, gain))
            if gain < (self.options.tolerance if fine else COARSE_TOLERANCE) and comparable:
                break
        self.evaluate, self.depth = evaluate, depth

    def finish(self):
        depth = self.evaluate.settled_depth(self.full, self.state, self.memory, self.depth)
        return self.state, depth.unflatten(1, self.full.shape), self.passes, self.trace


from easi3r_ros.core.alignment.solver_evaluate import no_memory  # noqa: E402
