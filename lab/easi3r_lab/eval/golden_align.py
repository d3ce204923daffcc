"""What golden_align files record, recomputed: the published alignment objective, its gradients and its optimum.

Parameters are taken as recorded, and everything that follows from them is compared: poses, focal lengths, all terms of
the objective, gradients, errors against the truth. Of Adam's curve only the beginning is compared, because rounding
differences grow with the steps (`easi3r-lab bench align` has all of it). The solver must reach the published result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from easi3r_lab.eval.alignment_bench import camera_poses, objective, trajectory_errors
from easi3r_lab.eval.recorded_alignments import GRADIENTS, Recorded, Variant, recognises, variants
from easi3r_lab.eval.scores import score_depth
from easi3r_lab.published import objective as reference
from easi3r_lab.published.initial import string_together
from easi3r_lab.published.objective import Parameters
from easi3r_lab.published.solver import SolverOptions, solve

__all__ = ["measure", "recognises"]

FIRST_STEPS = 10  # of Adam
ERROR_GROWTH = 0.05  # of the solver's trajectory errors over the published ones: the lower objective need not have less

Arrays = Mapping[str, np.ndarray]
Measured = tuple[str, float, float]  # quantity, relative error, largest one allowed
Compared = tuple[str, np.ndarray | torch.Tensor | float, np.ndarray | torch.Tensor | float]  # quantity, ours, recorded


def measure(arrays: Arrays, tolerance: float) -> Iterator[Measured]:
    """tolerance: relative, of everything that must be equal."""
    found = variants(arrays)
    tree = string_together(found[0].problem).tree
    same = tree == [tuple(edge) for edge in arrays["mst_edges"].tolist()]
    yield "mst_edges", 0.0 if same else float("inf"), 0.0
    for variant in found:
        for name, state in (("init", variant.init), ("final", variant.final)):
            at = f"{variant.name}/{name}_"
            for quantity, ours, recorded in (*_follows(variant, state, arrays, at), *_terms(variant, state, at)):
                yield quantity, relative_error(ours, recorded), tolerance
        yield from ((name, error, tolerance) for name, error in _first_steps(variant))
        yield from _solved(variant)


def relative_error(ours: np.ndarray | torch.Tensor | float, recorded: np.ndarray | torch.Tensor | float) -> float:
    """|ours - recorded| / |recorded|, Euclidean; what is recorded as zero must be zero up to rounding."""
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    if ours.shape != recorded.shape:
        return float("inf")
    return float(np.linalg.norm(ours - recorded) / max(np.linalg.norm(recorded), 1e-6))


def _follows(
    variant: Variant, state: Recorded, arrays: Arrays, at: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What follows from the parameters alone."""
    poses = camera_poses(state.parameters)
    maps = state.parameters.log_depth.exp().numpy()
    scored = score_depth(maps, arrays["gt_depth"])
    yield at + "c2w", poses, arrays[at + "c2w"]
    yield at + "focals", reference.focal_lengths(state.parameters).numpy(), arrays[at + "focals"]
    yield at + "ate_rpet_rper", np.array(trajectory_errors(poses, variant.truth)), np.array(state.errors)
    yield at + "depth_absrel_d125", np.array([scored.abs_rel, scored.delta_125]), arrays[at + "depth_absrel_d125"]


def _terms(variant: Variant, state: Recorded, at: str) -> Iterator[Compared]:
    """The objective, its terms, and its gradient where recorded."""
    tensors = [tensor.detach().clone().requires_grad_() for tensor in state.parameters.tensors()]
    parameters, initial = Parameters(*tensors), variant.init.parameters.log_depth
    before = reference.objective(variant.problem, parameters, variant.options, initial, with_flow=False)
    full = reference.objective(variant.problem, parameters, variant.options, initial, with_flow=True)
    yield at + "loss_epoch0", before.total.item(), state.objective_without_flow
    yield at + "loss_full", full.total.item(), state.objective
    yield at + "flow_terms_ij_ji", np.array([term.item() for term in full.flow]), np.array(state.flow)
    yield at + "temporal_term", full.temporal.item(), state.temporal
    yield at + "depthreg_term", full.depth_prior.item(), state.depth_prior
    if state.gradients is not None:
        ours = torch.autograd.grad(full.total, tensors)
        for name, gradient, recorded in zip(GRADIENTS, ours, state.gradients, strict=True):
            yield f"{at}grad_{name}", gradient, recorded


def _first_steps(variant: Variant) -> Iterator[tuple[str, float]]:
    optimised = reference.adam(variant.problem, variant.init.parameters, variant.options, FIRST_STEPS)
    for name, ours, recorded in (("loss", optimised.losses, variant.losses), ("lr", optimised.rates, variant.rates)):
        error = np.abs(ours.numpy() / recorded[:FIRST_STEPS] - 1).max()
        yield f"{variant.name}/{name}_curve, first {FIRST_STEPS} steps", float(error)


def _solved(variant: Variant) -> Iterator[Measured]:
    """How much worse than the published result the solver's is."""
    solution = solve(variant.problem, SolverOptions(variant.options, variant.shared_focal))
    value = objective(variant.problem, variant.options, solution.parameters, variant.init.parameters)
    errors = np.array(trajectory_errors(solution.world_from_cam, variant.truth)) / variant.final.errors
    yield f"{variant.name}/solver objective excess", max(value / variant.final.objective - 1, 0.0), 0.0
    yield f"{variant.name}/solver error excess", max(float(errors.max()) - 1, 0.0), ERROR_GROWTH
