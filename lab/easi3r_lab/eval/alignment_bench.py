"""The batch alignment against the published optimiser: `easi3r-lab bench align`.

The reference must reproduce the recorded optimisation; the solver must reach its result, measured by the reference's
objective, in a hundredth of the time of the reference's own Adam steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from easi3r_lab.eval.alignment_twins import Twin
from easi3r_lab.eval.recorded_alignments import Variant
from easi3r_lab.eval.scores import score_trajectory
from easi3r_lab.published import objective as reference
from easi3r_lab.published.initial import string_together
from easi3r_lab.published.objective import ObjectiveOptions, Optimised, Parameters, Problem
from easi3r_lab.published.solver import BatchSolution, SolverOptions, solve
from easi3r_lab.published.solver_state import State, to_parameters

REPEATS = 5  # solves, whose median time counts
EARLY = 50  # steps
FLOW_WEIGHT = ObjectiveOptions().flow_weight

Errors = tuple[float, float, float]  # ATE, RPE translation, RPE rotation


@dataclass(frozen=True)
class CurveRow:
    """Our own Adam against the recorded one: relative deviations of the objective before each step."""

    name: str
    early: float  # largest of the first `EARLY` steps; later rounding differences are amplified
    median: float
    largest: float
    last: float
    recorded_spread: float  # of the last, in repeated published runs; nan: not recorded


@dataclass(frozen=True)
class SolverRow:
    """The solver against Adam, recorded or our own. Ratios: solver / Adam."""

    name: str
    objective: float  # nan: the two minimise different things
    ate: float
    rpe_translation: float
    rpe_rotation: float
    speed: float  # CPU time of our own Adam / CPU time of the solver from the pairs alone
    solve_ms: float
    passes: int  # over the pixels


def golden_rows(variants: Iterable[Variant]) -> Iterator[CurveRow | SolverRow]:
    """Of every recorded variant, Adam's curve and the solver against the published result.

    Where there is no flow also with static weighting, which is not published. 10 to 60 s per variant.
    """
    for variant in variants:
        optimised, seconds = timed_adam(variant.problem, variant.init.parameters, variant.options)
        yield curve_row(variant, optimised)
        yield _golden_row(variant, variant.options, variant.name, seconds)
        if not variant.options.flow_weight and bool(variant.problem.masks.any()):
            static = replace(variant.options, static_weighting=True)
            yield _golden_row(variant, static, f"{variant.name}, static weighting", seconds)


def curve_row(variant: Variant, optimised: Optimised) -> CurveRow:
    """optimised: what our own Adam made of the variant."""
    deviation = np.abs(optimised.losses.numpy() / variant.losses - 1)
    return CurveRow(
        name=variant.name,
        early=float(deviation[:EARLY].max()),
        median=float(np.median(deviation)),
        largest=float(deviation.max()),
        last=float(deviation[-1]),
        recorded_spread=variant.spread,
    )


def _golden_row(variant: Variant, options: ObjectiveOptions, name: str, adam_seconds: float) -> SolverRow:
    solution, seconds = _timed_solve(variant.problem, SolverOptions(options, variant.shared_focal))
    ratio = float("nan")
    if options == variant.options:
        ratio = objective(variant.problem, options, solution.parameters, variant.init.parameters)
        ratio /= variant.final.objective
    errors = trajectory_errors(solution.world_from_cam, variant.truth)
    return _row(name, ratio, errors, variant.final.errors, adam_seconds, seconds, solution)


def twin_rows(twins: Iterable[Twin], iterations: int = ObjectiveOptions.iterations) -> Iterator[SolverRow]:
    """The solver against our own Adam on other scenes: without flow, with flow, with flow but no masks."""
    for twin in twins:
        unmasked = replace(twin.problem, masks=torch.zeros_like(twin.problem.masks))
        for problem, weight, case in (
            (twin.problem, 0.0, "no flow"),
            (twin.problem, FLOW_WEIGHT, "flow"),
            (unmasked, FLOW_WEIGHT, "flow, no masks"),
        ):
            options, start = ObjectiveOptions(flow_weight=weight, iterations=iterations), published_start(problem)
            optimised, adam_seconds = timed_adam(problem, start, options)
            solution, seconds = _timed_solve(problem, SolverOptions(options))
            found = [objective(problem, options, each.parameters, start) for each in (solution, optimised)]
            ours = trajectory_errors(solution.world_from_cam, twin.truth)
            theirs = trajectory_errors(camera_poses(optimised.parameters), twin.truth)
            name = f"{twin.name}, {case}"
            yield _row(name, found[0] / found[1], ours, theirs, adam_seconds, seconds, solution)


def published_start(problem: Problem) -> Parameters:
    """Initialisation of the published optimiser with one shared focal length, from all pixels."""
    start = string_together(problem)
    shared = State(start.state.world_from_cam, start.state.world_from_pair, start.state.focal.log().mean().exp()[None])
    return to_parameters(shared, start.depth)


def camera_poses(parameters: Parameters) -> np.ndarray:
    """(T, 4, 4) float64 world_from_cam."""
    rotation, translation = reference.poses(parameters.frame_poses.double())
    poses = np.tile(np.eye(4), (len(rotation), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotation, translation
    return poses


def objective(problem: Problem, options: ObjectiveOptions, parameters: Parameters, start: Parameters) -> float:
    """All terms, as the reference has them. start: what the depth prior pulls to."""
    return float(reference.objective(problem, parameters, options, start.log_depth, with_flow=True).total)


def trajectory_errors(poses: np.ndarray, truth: np.ndarray) -> Errors:
    """Of (T, 4, 4) world_from_cam."""
    result = score_trajectory(poses, truth)
    return result.ate, result.rpe_translation, result.rpe_rotation


def timed_adam(problem: Problem, start: Parameters, options: ObjectiveOptions) -> tuple[Optimised, float]:
    """The outcome, and CPU seconds (the machine may be shared), after one step to warm up."""
    reference.adam(problem, start, options, steps=1)
    begin = time.process_time()
    return reference.adam(problem, start, options), time.process_time() - begin


def _timed_solve(problem: Problem, options: SolverOptions) -> tuple[BatchSolution, float]:
    """The solution, and the median CPU seconds of some solves from the pairs alone, after one to warm up."""
    times = []
    for _ in range(1 + REPEATS):
        begin = time.process_time()
        solution = solve(problem, options)
        times.append(time.process_time() - begin)
    return solution, float(np.median(times[1:]))


def _row(
    name: str, ratio: float, ours: Errors, theirs: Errors, adam_seconds: float, seconds: float, solution: BatchSolution
) -> SolverRow:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return SolverRow(name, ratio, *ratios, adam_seconds / seconds, 1e3 * seconds, solution.iterations)
