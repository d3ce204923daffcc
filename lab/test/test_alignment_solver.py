"""The batch solver from inside: value, gradient and curvature of its objective, against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from easi3r_lab.eval.alignment_bench import objective, published_start
from easi3r_lab.published import objective as reference
from easi3r_lab.published.objective import ObjectiveOptions
from easi3r_lab.published.solver import solve
from easi3r_lab.published.solver_evaluate import Evaluator, Order, no_memory
from easi3r_lab.published.solver_local import curvature
from easi3r_lab.published.solver_state import State, from_parameters, observe, pair_scales, retract, to_parameters
from easi3r_lab.published.solver_system import UnknownLayout, factorise, free_gradient, gauss_newton
from easi3r_lab.published.solver_tile import CURVATURE, Weighting, first_depth, tiles
from helpers_alignment import (  # noqa: F401
    ALL_TERMS,
    NO_FLOW,
    PARITY,
    STATIC,
    one_thread,
    small_start,
    smooth_problem,
    twin,
    without_flow,
)

from easi3r_ros.core.geometry import hat

SHAPE = (32, 48)


def free_direction(layout: UnknownLayout, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(layout.size, generator=generator, dtype=torch.float64)
    x[:6] = 0.0
    x[layout.log_scales] -= x[layout.log_scales].mean()
    return x


def evaluate(problem, options, state, initial, order):
    """The objective at `state`, depth settled by a few passes, as the solver sees it."""
    height, width = problem.masks.shape[1:]
    observations = observe(problem, (width / 2, height / 2), 1.0, bool(options.flow_weight))
    layout = UnknownLayout(problem.frames, len(state.focal), len(problem.edges))
    prior = initial.flatten(1) if options.depth_prior_weight else None
    level = Evaluator(observations, options, 0.0, 1.0, layout, 1e-6, prior)
    found = level(state, no_memory(observations))
    for _ in range(25):
        found = level(state, found.after, found.depth, order)
    return found


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "options", [NO_FLOW, STATIC.objective, ObjectiveOptions(), ALL_TERMS], ids=["point", "static", "flow", "all"]
)
def test_objective_and_gradient_are_the_reference_s(options, shared):
    """At the best depth, the derivative by all else is the partial derivative at fixed depth."""
    problem = smooth_problem()
    start = published_start(problem)
    state = from_parameters(start)
    if shared:
        state = State(state.world_from_cam, state.world_from_pair, state.focal[:1])
    here = evaluate(problem, options, state, start.log_depth, Order.GRADIENT)
    depth = here.depth.unflatten(1, problem.masks.shape[1:])
    value = objective(problem, options, to_parameters(state, depth), start)
    assert here.objective == pytest.approx(value, rel=2e-5)
    generator, h = torch.Generator().manual_seed(0), 3e-4
    for _ in range(3):
        x = free_direction(here.map.layout, generator)
        ahead, behind = (objective(problem, options, to_parameters(here.moved(s * x), depth), start) for s in (h, -h))
        slope = (ahead - behind) / (2 * h)
        assert abs(float(here.gradient @ x) - slope) < 3e-3 * float(here.gradient.norm() * x.norm())


def test_gradient_is_free_of_the_gauge():
    start = published_start(twin().problem)
    here = evaluate(twin().problem, NO_FLOW, from_parameters(start), start.log_depth, Order.GRADIENT)
    assert not here.gradient[:6].any()
    assert abs(float(here.gradient[here.map.layout.log_scales].sum())) < 1e-12


def test_settled_depth_is_stationary():
    """Also against a strong depth prior, whose mean over the frame is taken out."""
    problem = smooth_problem()
    start = published_start(problem)
    options = replace(ALL_TERMS, depth_prior_weight=5.0)
    initial = start.log_depth + torch.linspace(-0.2, 0.2, 48)
    here = evaluate(problem, options, from_parameters(start), initial, Order.GRADIENT)
    log_depth = here.depth.unflatten(1, SHAPE).log().requires_grad_()
    parameters = replace(start, log_depth=log_depth)
    terms = reference.objective(problem, parameters, options, initial, with_flow=True)
    (total,) = torch.autograd.grad(terms.total, log_depth, retain_graph=True)
    (prior,) = torch.autograd.grad(options.depth_prior_weight * terms.depth_prior, log_depth)
    assert float(total.norm() / prior.norm()) < 0.02


def test_curvature_predicts_the_change_of_the_gradient():
    """In directions of little curvature, which say most about a step."""
    problem = without_flow(smooth_problem())
    solution = solve(problem, PARITY, published_start(problem))
    state = from_parameters(solution.parameters)
    state = State(state.world_from_cam, state.world_from_pair, state.focal[:1])
    here = evaluate(problem, NO_FLOW, state, None, Order.CURVATURE)
    assert torch.linalg.eigvalsh(here.curvature)[0] > -1e-6
    generator = torch.Generator().manual_seed(0)
    layout, ratios = here.map.layout, []
    factor = factorise(layout, here.curvature, damping=1e-6)
    for _ in range(4):
        x = gauss_newton(factor, free_gradient(layout, torch.randn(layout.size, generator=generator).double()))
        x = 2e-2 * x / x.norm()
        there = evaluate(problem, NO_FLOW, here.moved(x), None, Order.GRADIENT)
        ratios.append(float(x @ (there.gradient - here.gradient)) / float(x @ here.curvature @ x))
    np.testing.assert_allclose(ratios, 1.0, atol=0.25)


def test_depth_is_eliminated_from_the_curvature():
    """Against explicit Jacobians of one frame's residuals, by the twists of its slots, its log focal and its depths."""
    problem = without_flow(smooth_problem())
    state = from_parameters(published_start(problem))
    observations = observe(problem, (24.0, 16.0), 1.0, with_flow=False)
    weighting = Weighting(False, 1e-6, torch.zeros(2, dtype=torch.float64), None)
    (_, tile), *_ = tiles(observations, state, weighting)
    depth = first_depth(tile)
    ours = curvature(tile, depth, None)
    frame, slots = 0, observations.slots[0]
    Y = tile.predicted[frame, :slots].double().movedim(1, -1)  # (K, n, 3)
    x, y = tile.x[frame, 0].double(), tile.y[frame, 0].double()
    rays = torch.stack([x, y, torch.ones_like(x)], -1)
    own = rays * depth[frame, :, None]
    weight = CURVATURE * tile.weight[frame, :slots] / (own - Y).norm(dim=-1)  # (K, n)
    J = torch.zeros(*Y.shape, 7 * slots + 1, dtype=torch.float64)
    for k in range(slots):
        J[k, :, :, 7 * k : 7 * k + 3] = -torch.eye(3)
        J[k, :, :, 7 * k + 3 : 7 * k + 6] = hat(Y[k])
        J[k, :, :, 7 * k + 6] = -Y[k]
    J[..., -1] = -own * torch.tensor([1.0, 1.0, 0.0])
    normal = torch.einsum("kn,knia,knib->ab", weight, J, J)
    cross = torch.einsum("kn,knia,ni->na", weight, J, rays)
    stiffness = weight.sum(0) * rays.square().sum(-1)
    expected = normal - torch.einsum("na,nb,n->ab", cross, cross, 1.0 / stiffness)
    at = torch.cat([torch.arange(7 * slots), torch.tensor([ours.matrix.shape[1] - 1])])
    torch.testing.assert_close(
        ours.matrix[frame][at[:, None], at], expected, rtol=1e-4, atol=1e-5 * float(normal.max())
    )
    step = torch.randn(1, len(at), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    padded = torch.zeros(1, ours.matrix.shape[1], dtype=torch.float64).index_copy_(1, at, step)
    moved = ours.depth_step(padded.expand(len(depth), -1))[frame].double()
    torch.testing.assert_close(moved, -(cross @ step[0]) / stiffness, rtol=1e-3, atol=1e-3 * float(moved.abs().max()))


def test_steps_keep_rotations_and_the_mean_scale():
    state = from_parameters(small_start())
    generator = torch.Generator().manual_seed(0)
    sizes = ((8, 6), (8,), (32, 7))
    moved = retract(state, *(0.3 * torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes))
    rotation = moved.world_from_cam[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(8, 3, 3))
    assert float(pair_scales(moved).log().mean().exp()) == pytest.approx(0.5, rel=1e-6)
    back = from_parameters(to_parameters(moved, small_start().log_depth.exp()))
    torch.testing.assert_close(back.world_from_pair, moved.world_from_pair, atol=1e-5, rtol=1e-5)
