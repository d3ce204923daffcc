"""The published objective and its optimiser; test_golden_align compares them with all that was recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from easi3r_lab.eval.alignment_bench import camera_poses, published_start
from easi3r_lab.published import objective as reference
from easi3r_lab.published.objective import ObjectiveOptions
from helpers_alignment import (  # noqa: F401
    NO_FLOW,
    one_thread,
    recorded_variants,
    small_arrays,
    small_problem,
    small_start,
    twin,
)


@pytest.mark.parametrize("name", ["demo_noflow", "indep_focal_cosine"])
def test_first_steps_of_the_recorded_optimisation(name):
    """Rounding grows with the steps; so early, repeated published runs agree to this. All: `easi3r-lab bench align`."""
    variant = recorded_variants()[name]
    steps = 40
    optimised = reference.adam(variant.problem, variant.init.parameters, variant.options, steps)
    np.testing.assert_allclose(optimised.losses.numpy(), variant.losses[:steps], rtol=1e-4)
    np.testing.assert_allclose(optimised.rates.numpy(), variant.rates[:steps], rtol=1e-5)


def test_depth_gradient_of_some_recorded_pixels():
    """A pixel's depth has a gradient of its own: every 4th pixel has the recorded one, up to the number of pixels."""
    problem, start = small_problem(), small_start()
    start.log_depth.requires_grad_()
    reference.objective(problem, start, NO_FLOW, start.log_depth.detach(), with_flow=False).total.backward()
    recorded = torch.from_numpy(small_arrays()["demo_noflow/init_grad_im_depthmaps"])
    ours = start.log_depth.grad / float(small_arrays()["stride"]) ** 2
    assert float((ours - recorded).norm() / recorded.norm()) < 1e-4


@pytest.mark.parametrize("name", ["demo_noflow", "flow_nomask", "all_terms"])
@pytest.mark.parametrize("state", ["init", "final"])
def test_recorded_poses_and_temporal_term(name, state):
    arrays = small_arrays()
    poses = torch.from_numpy(arrays[f"{name}/{state}_im_poses"])
    parameters = replace(small_start(), frame_poses=poses)
    np.testing.assert_allclose(camera_poses(parameters), arrays[f"{name}/{state}_c2w"], atol=1e-5)
    term = float(reference.temporal_term(parameters, translation_weight=1.0))
    assert term == pytest.approx(float(arrays[f"{name}/{state}_temporal_term"]), rel=1e-5)


def test_static_weighting_leaves_movers_out_of_the_point_term():
    problem, start = small_problem(), small_start()
    a, b = problem.edges.T
    unsure_of_movers = replace(
        problem,
        conf_a=torch.where(problem.masks[a], 1.0, problem.conf_a),
        conf_b=torch.where(problem.masks[b], 1.0, problem.conf_b),
    )
    static = reference.point_term(problem, start, static_weighting=True)
    assert float(static) == pytest.approx(float(reference.point_term(unsure_of_movers, start)), rel=1e-6)
    assert float(static) < 0.95 * float(reference.point_term(problem, start))


def test_masks_are_part_of_flow_and_prior_only():
    problem, start = twin().problem, published_start(twin().problem)
    unmasked = replace(problem, masks=torch.zeros_like(problem.masks))
    moved = replace(start, log_depth=start.log_depth + torch.linspace(0, 0.1, 48))
    options = ObjectiveOptions(depth_prior_weight=1.0)
    a, b = (reference.objective(p, moved, options, start.log_depth, with_flow=True) for p in (problem, unmasked))
    assert a.point == b.point and a.flow[0] < b.flow[0] and a.depth_prior > b.depth_prior


def test_flow_is_dropped_while_it_is_too_large_and_where_its_weight_is_zero():
    problem, start = twin().problem, published_start(twin().problem)
    with_flow = reference.objective(problem, start, ObjectiveOptions(), start.log_depth, with_flow=True)
    assert with_flow.total == pytest.approx(float(with_flow.point + 0.01 * sum(with_flow.flow)), rel=1e-6)
    limit = 0.5 * float(sum(with_flow.flow))
    dropped = reference.objective(problem, start, ObjectiveOptions(flow_limit=limit), start.log_depth, with_flow=True)
    assert dropped.total == dropped.point
    without = reference.objective(problem, start, NO_FLOW, start.log_depth, with_flow=True)
    assert without.flow == (0, 0) and without.total == without.point


def test_induced_flow_is_the_flow_of_what_stands_still():
    scene = twin()
    problem = scene.problem
    start = published_start(problem)
    optimised = reference.adam(problem, start, replace(ObjectiveOptions(), iterations=60)).parameters
    induced = reference.induced_flow(optimised, *problem.edges.T)
    static = ~problem.masks[problem.edges[:, 0]]
    error = (induced - problem.flow).norm(dim=1)[static]
    assert float(error.median()) < 0.2 < float(problem.flow.norm(dim=1)[static].median())
