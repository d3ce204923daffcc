"""The batch alignment as a whole: its optimum against Adam's and the published one, and what it may be given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from easi3r_lab.eval.alignment_bench import objective, published_start, trajectory_errors
from easi3r_lab.eval.alignment_twins import box_room, preset_twin
from easi3r_lab.published import objective as reference
from easi3r_lab.published.initial import spanning_tree, string_together
from easi3r_lab.published.objective import ObjectiveOptions, Parameters, Problem
from easi3r_lab.published.solver import SolverOptions, solve
from easi3r_lab.published.solver_state import from_parameters
from helpers_alignment import (  # noqa: F401
    NO_FLOW,
    PARITY,
    STATIC,
    ate,
    one_thread,
    recorded_variants,
    shaken,
    small_arrays,
    small_problem,
    small_start,
    smooth_problem,
    twin,
)

from easi3r_ros.core.geometry import invert_se3, transform

SHAPE = (32, 48)


def only(problem: Problem, keep: torch.Tensor) -> Problem:
    """Some of the pairs."""
    kept = {name: getattr(problem, name)[keep] for name in ("edges", "points_a", "points_b", "conf_a", "conf_b")}
    return replace(problem, **kept)


# -- the optimum -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False], ids=["start", "pairs"])
def test_better_than_adam_on_thinned_recorded_pairs(given):
    problem, start = small_problem(), small_start()
    solution = solve(problem, PARITY, start if given else None)
    adam = reference.adam(problem, start, NO_FLOW).parameters
    ours = objective(problem, NO_FLOW, solution.parameters, start)
    assert ours <= objective(problem, NO_FLOW, adam, start)
    assert solution.objective == pytest.approx(ours, rel=1e-4)
    assert solution.iterations < 20
    again = replace(solution.parameters, log_depth=solution.parameters.log_depth.requires_grad_())
    reference.point_term(problem, again).backward()  # a result may be the start of something else


def test_static_weighting_on_thinned_recorded_pairs():
    """Against the published result on all pixels: 0.7 of its error is asked for, movers being a fifth of the pixels."""
    truth, published = small_arrays()["gt_c2w"], float(small_arrays()["demo_noflow/final_ate_rpet_rper"][0])
    assert ate(solve(small_problem(), STATIC), truth) < 0.5 * published
    assert ate(solve(small_problem(), PARITY), truth) > 0.7 * published


@pytest.mark.parametrize("name", ["demo_noflow", "indep_focal_cosine", "flow_mask", "flow_nomask", "all_terms"])
def test_published_results_are_reached(name):
    variant = recorded_variants()[name]
    solution = solve(variant.problem, SolverOptions(variant.options, variant.shared_focal))
    ours = objective(variant.problem, variant.options, solution.parameters, variant.init.parameters)
    assert ours <= variant.final.objective
    ratios = np.array(trajectory_errors(solution.world_from_cam, variant.truth)) / variant.final.errors
    assert (ratios < 1.05).all()
    assert solution.iterations <= 15  # two Adam steps, forward and backward, take longer


def test_static_weighting_against_the_published_result():
    variant = recorded_variants()["demo_noflow"]
    options = SolverOptions(replace(variant.options, static_weighting=True))
    assert ate(solve(variant.problem, options), variant.truth) < 0.5 * variant.final.errors[0]  # 0.7 is asked for


@pytest.mark.parametrize("options", [NO_FLOW, ObjectiveOptions()], ids=["point", "flow"])
def test_optimum_does_not_depend_on_rounding_or_the_start(options):
    scene = box_room(seed=5, frames=6, size=(48, 32))
    start = published_start(scene.problem)
    values = [objective(scene.problem, options, solve(scene.problem, SolverOptions(options)).parameters, start)]
    for seed in range(3):
        rounded = shaken(scene.problem, 1e-6, seed)
        solution = solve(rounded, SolverOptions(options))
        values.append(objective(scene.problem, options, solution.parameters, start))
        generator = torch.Generator().manual_seed(seed)
        raw = [tensor + 1e-2 * torch.randn(tensor.shape, generator=generator) for tensor in start.tensors()[:3]]
        solution = solve(scene.problem, SolverOptions(options), Parameters(*raw, start.log_depth))
        values.append(objective(scene.problem, options, solution.parameters, start))
    assert np.ptp(values) < 1e-5 * min(values)
    tight = solve(scene.problem, SolverOptions(options, tolerance=1e-8))
    assert max(values) < (1 + 1e-5) * objective(scene.problem, options, tight.parameters, start)


def test_flow_helps():
    problem, truth = smooth_problem(), twin().truth
    with_flow = SolverOptions(ObjectiveOptions(static_weighting=True))
    assert ate(solve(problem, with_flow), truth) < 0.8 * ate(solve(problem, STATIC), truth)


def test_noise_along_the_rays_alone():
    """The best depth is a weighted median: one of the pairs' own, which re-weighting approaches but never reaches."""
    scene = preset_twin("static", frames=3, size=(48, 32), graph="complete", seed=2, noise=0.04)
    start = published_start(scene.problem)
    solution = solve(scene.problem, PARITY)
    log_depth = solution.parameters.log_depth

    def value(change: float) -> float:
        return objective(scene.problem, NO_FLOW, replace(solution.parameters, log_depth=log_depth + change), start)

    adam = reference.adam(scene.problem, start, NO_FLOW).parameters
    assert value(0.0) < (1 + 3e-5) * objective(scene.problem, NO_FLOW, adam, start)
    assert value(0.0) < min(value(1e-4), value(-1e-4))


def test_one_direction_and_flow_that_does_not_agree():
    """Pairs in one order only: some frames are never first; flows of their own in both directions."""
    problem = twin().problem
    keep = problem.edges[:, 0] < problem.edges[:, 1]
    pairs = {
        name: getattr(problem, name)[keep] for name in ("edges", "points_a", "points_b", "conf_a", "conf_b", "flow")
    }
    problem = Problem(**pairs, masks=problem.masks, flow_back=problem.flow_back[keep] + 0.1)
    options = ObjectiveOptions(static_weighting=True)
    solution = solve(problem, SolverOptions(options))
    start = published_start(problem)
    assert solution.objective == pytest.approx(objective(problem, options, solution.parameters, start), rel=1e-3)
    assert ate(solution, twin().truth) < 0.01


# -- options -----------------------------------------------------------------------------------------------------------


def pairs_of(world_from_cam: np.ndarray, K: np.ndarray, noise: float = 0.0, seed: int = 0) -> Problem:
    """All pairs of frames whose pixels see points at random depths; noise: metres, of every point in every pair."""
    generator = torch.Generator().manual_seed(seed)
    frames, (height, width) = len(world_from_cam), SHAPE
    poses = torch.from_numpy(world_from_cam)
    u, v = torch.meshgrid(torch.arange(float(width)), torch.arange(float(height)), indexing="xy")
    rays = torch.stack([u, v, torch.ones_like(u)], -1).double() @ torch.from_numpy(np.linalg.inv(K)).mT
    depth = 1.5 + 2.0 * torch.rand(frames, height, width, 1, generator=generator)
    edges = torch.tensor([(a, b) for a in range(frames) for b in range(frames) if a != b])

    def seen(frame: int, camera: int) -> torch.Tensor:
        points = transform(invert_se3(poses[camera]) @ poses[frame], rays * depth[frame])
        return (points + noise * torch.randn(points.shape, generator=generator)).float()

    scale = torch.linspace(0.5, 2.0, len(edges))[:, None, None, None]
    return Problem(
        edges=edges,
        points_a=scale * torch.stack([seen(a, a) for a, _ in edges.tolist()]),
        points_b=scale * torch.stack([seen(b, a) for a, b in edges.tolist()]),
        conf_a=torch.full((len(edges), height, width), 3.0),
        conf_b=torch.full((len(edges), height, width), 3.0),
        masks=torch.zeros(frames, height, width, dtype=torch.bool),
    )


def test_known_intrinsics_are_used_as_they_are():
    """Pixels that are not square and a principal point far off, which no estimate could find."""
    K = np.array([[20.0, 0.0, 10.0], [0.0, 35.0, 25.0], [0.0, 0.0, 1.0]])
    truth = twin().truth
    problem = pairs_of(truth, K)
    solution = solve(problem, replace(PARITY, K=K))
    np.testing.assert_array_equal(solution.K, np.tile(K, (len(truth), 1, 1)))
    assert ate(solution, truth) < 1e-4
    assert ate(solve(problem, PARITY), truth) > 1e-2


def test_known_intrinsics_with_flow():
    scene = twin()
    focal = 24.0 / np.tan(np.radians(62.0) / 2)  # of the rendered camera, whose image was one pixel wider
    K = np.array([[focal * 49 / 48, 0.0, 24.0], [0.0, focal * 49 / 48, 16.0], [0.0, 0.0, 1.0]])
    options = SolverOptions(ObjectiveOptions(static_weighting=True), K=K)
    assert ate(solve(scene.problem, options), scene.truth) < 1e-3


def test_estimated_focal_length_shared_or_not():
    problem, truth = small_problem(), small_arrays()
    shared = solve(problem, STATIC)
    apart = solve(problem, replace(STATIC, shared_focal=False))
    free = solve(problem, replace(STATIC, shared_focal=False, focal_prior=0.0))
    focals = [solution.K[:, 0, 0] for solution in (shared, apart, free)]
    assert np.ptp(focals[0]) == 0 < np.ptp(focals[1]) < np.ptp(focals[2])
    expected = 98.48 / float(truth["stride"])
    np.testing.assert_allclose(np.array(focals)[:2], expected, rtol=0.02)


def test_the_unit_and_the_world():
    problem, start = small_problem(), small_start()
    from_pairs = solve(problem, PARITY)
    np.testing.assert_allclose(from_pairs.world_from_cam[0], np.eye(4), atol=1e-9)
    assert np.exp(np.log(from_pairs.pair_scale).mean()) == pytest.approx(0.5, rel=1e-6)
    from_start = solve(problem, PARITY, start)
    first = from_parameters(start).world_from_cam[0].numpy()
    np.testing.assert_allclose(from_start.world_from_cam[0], first, atol=1e-9)


def test_movers_have_depth_too():
    problem, arrays = small_problem(), small_arrays()
    solution = solve(problem, STATIC)
    assert bool((solution.depth > 0).all())
    movers = arrays["gt_mask"]
    ratio = solution.depth.numpy() / arrays["gt_depth"]
    assert abs(np.median(ratio[movers]) / np.median(ratio[~movers]) - 1) < 0.1


# -- covariance --------------------------------------------------------------------------------------------------------


def test_covariance_is_what_repeated_noise_shows():
    """Normalised squared pose errors of many noise draws have the mean that their number of dimensions says."""
    K = np.array([[40.0, 0.0, 24.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]])
    truth = np.linalg.inv(twin().truth[0]) @ twin().truth[:3]
    squared = []
    for seed in range(12):
        solution = solve(pairs_of(truth, K, noise=0.03, seed=seed), replace(PARITY, K=K))
        for n in (1, 2):
            turned = solution.world_from_cam[n, :3, :3] @ truth[n, :3, :3].T
            turn = np.array([turned[2, 1] - turned[1, 2], turned[0, 2] - turned[2, 0], turned[1, 0] - turned[0, 1]]) / 2
            assert np.linalg.eigvalsh(solution.covariance[n])[0] > 0
            squared.append(turn @ np.linalg.inv(solution.covariance[n, 3:, 3:]) @ turn)
    assert 2.0 < np.mean(squared) < 4.5  # 3 dimensions
    assert not solution.covariance[0].any()


def test_covariance_grows_with_the_noise():
    K = np.array([[40.0, 0.0, 24.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]])
    low, high = (solve(pairs_of(twin().truth[:3], K, noise), replace(PARITY, K=K)) for noise in (0.01, 0.04))
    ratio = np.sqrt(np.trace(high.covariance[1]) / np.trace(low.covariance[1]))
    assert 2.5 < ratio < 6.0


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_frame_without_pairs():
    problem = small_problem()
    keep = (problem.edges != 2).all(1)
    with pytest.raises(ValueError, match=r"in none: \[2\]"):
        solve(only(problem, keep), PARITY)


def test_pairs_that_do_not_connect():
    problem = small_problem()
    keep = ((problem.edges < 4).sum(1) != 1).nonzero().flatten()
    with pytest.raises(ValueError, match="do not connect frames"):
        solve(only(problem, keep), PARITY)


def test_flow_wanted_and_not_given():
    with pytest.raises(ValueError, match="set flow_weight to 0"):
        solve(small_problem())


def test_nothing_static():
    problem = replace(small_problem(), masks=torch.ones(8, 16, 24, dtype=torch.bool))
    with pytest.raises(ValueError, match="do not determine poses"):
        solve(problem, STATIC)


def test_pixels_that_are_not_numbers():
    problem = small_problem()
    spoiled = replace(problem, points_a=problem.points_a.clone(), conf_b=problem.conf_b.clone())
    spoiled.points_a[:, ::7, ::5] = torch.nan
    spoiled.points_a[:, 1, 1] = torch.inf
    spoiled.conf_b[:, ::6, 3] = torch.nan
    solution = solve(spoiled, STATIC, small_start())
    assert np.isfinite(solution.world_from_cam).all() and bool(torch.isfinite(solution.depth).all())
    assert ate(solution, small_arrays()["gt_c2w"]) < 0.015


# -- start -------------------------------------------------------------------------------------------------------------


def test_recorded_start():
    """Tree as recorded; poses and focal lengths close (a focal quirk of the published code is not copied)."""
    variant = recorded_variants()["demo_noflow"]
    recorded = small_arrays()
    start = string_together(variant.problem)
    assert start.tree == [tuple(edge) for edge in recorded["mst_edges"].tolist()]
    np.testing.assert_allclose(start.state.focal.numpy(), recorded["mst_focals"], rtol=0.005)
    scale = np.linalg.norm(start.state.world_from_cam[:, :3, 3]) / np.linalg.norm(recorded["mst_c2w"][:, :3, 3])
    np.testing.assert_allclose(start.state.world_from_cam[:, :3, :3], recorded["mst_c2w"][:, :3, :3], atol=2e-3)
    np.testing.assert_allclose(
        start.state.world_from_cam[:, :3, 3] / scale, recorded["mst_c2w"][:, :3, 3], atol=5e-3 * 1.0
    )


def test_tree_takes_the_most_confident_pairs():
    problem = small_problem()
    scores = problem.conf_a.mean((1, 2)) * problem.conf_b.mean((1, 2))
    tree = spanning_tree(problem)
    assert len(tree) == problem.frames - 1 and tree[0] == int(scores.argmax())
    inside = set(problem.edges[tree[0]].tolist())
    for e in tree[1:]:
        assert len(inside.intersection(problem.edges[e].tolist())) == 1
        inside.update(problem.edges[e].tolist())
