"""Bundle adjustment on points and cameras whose truth is known."""

from dataclasses import replace

import pytest
import torch

from easi3r_ros.core.alignment.bundle import BundleState, Prior, Sightings, adjust, linearise, views
from easi3r_ros.core.geometry import invert_se3, project, se3_exp, transform, weighted_procrustes

FRAMES, POINTS, REACH = 12, 40, 2  # a frame's points are seen by the REACH frames before and after it
K = torch.tensor([[100.0, 0.0, 60.0], [0.0, 110.0, 40.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def truth(seed: int = 0) -> BundleState:
    """A camera that goes sideways and turns a little, and points 2 to 6 units away."""
    generator = torch.Generator().manual_seed(seed)
    along = torch.arange(FRAMES, dtype=torch.float64)[:, None]
    twist = along * torch.tensor([[0.2, 0.02, 0.05, 0.0, 0.02, 0.01]], dtype=torch.float64)
    depth = 2.0 + 4.0 * torch.rand(FRAMES, POINTS, generator=generator)
    return BundleState(se3_exp(twist), depth.log(), K)


def sightings_of(state: BundleState, noise_px: float = 0.0, seed: int = 1) -> Sightings:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(POINTS, 2, generator=generator) * torch.tensor([120.0, 80.0])
    near = [[o for o in range(i - REACH, i + REACH + 1) if o != i and 0 <= o < FRAMES] for i in range(FRAMES)]
    slots = max(map(len, near))
    observer = torch.arange(FRAMES)[:, None].repeat(1, slots)
    seen, weight = torch.zeros(FRAMES, slots, POINTS, 2), torch.zeros(FRAMES, slots, POINTS)
    rays = (pixels - K[:2, 2].float()) / K.diagonal()[:2].float()
    rays = torch.cat([rays, torch.ones(POINTS, 1)], 1).double()
    for i, observers in enumerate(near):
        world = transform(state.world_from_cam[i], rays * state.log_depth[i].exp()[:, None])
        for slot, o in enumerate(observers):
            observer[i, slot] = o
            seen[i, slot] = project(transform(invert_se3(state.world_from_cam[o]), world), state.K)
            weight[i, slot] = 1.0
    seen += noise_px * torch.randn(seen.shape, generator=generator)
    return Sightings(pixels, observer, seen, weight)


def disturbed(state: BundleState, pose: float = 0.02, depth: float = 0.05, seed: int = 2) -> BundleState:
    generator = torch.Generator().manual_seed(seed)
    twist = pose * torch.randn(FRAMES, 6, generator=generator).double()
    log_depth = state.log_depth + depth * torch.randn(FRAMES, POINTS, generator=generator)
    return BundleState(state.world_from_cam @ se3_exp(twist), log_depth, state.K)


def prior(depth_sigma: float, focal_sigma: float = 0.0) -> Prior:
    return Prior(torch.full((FRAMES, POINTS), depth_sigma**-2), focal_sigma)


def position_error(found: BundleState, true: BundleState) -> float:
    """Largest, after Sim(3) alignment."""
    estimate, target = found.world_from_cam[:, :3, 3], true.world_from_cam[:, :3, 3]
    rigid, scale = weighted_procrustes(estimate, target, torch.ones(FRAMES))
    return float((transform(rigid, scale * estimate) - target).norm(dim=1).max())


def test_exact_sightings_give_the_exact_world():
    true = truth()
    start = disturbed(true)
    found = adjust(sightings_of(true), start, prior(10.0), tolerance=1e-9)
    assert position_error(start, true) > 0.02
    assert position_error(found.state, true) < 1e-4
    assert found.residual < 1e-5 < 1e-2 < found.residual_before
    growth = found.state.log_depth - true.log_depth
    assert float(growth.std()) < 1e-3  # one common scale


def test_wrong_sightings_do_not_matter():
    true, generator = truth(), torch.Generator().manual_seed(3)
    good = sightings_of(true, noise_px=0.1)
    wrong = torch.rand(good.weight.shape, generator=generator) < 0.15
    seen = torch.where(wrong[..., None], 120 * torch.rand(good.seen.shape, generator=generator), good.seen)
    start = disturbed(true)
    with_wrong = adjust(replace(good, seen=seen), start, prior(0.1))
    without = adjust(good, start, prior(0.1))
    assert position_error(with_wrong.state, true) < 2 * position_error(without.state, true)
    assert position_error(with_wrong.state, true) < 0.2 * position_error(start, true)


def test_weight_zero_is_not_looked_at():
    true = truth()
    good = sightings_of(true)
    weight = good.weight.clone()
    weight[:, :, ::3] = 0.0
    seen = torch.where(weight[..., None] > 0, good.seen, 1e3)
    found = adjust(replace(good, seen=seen, weight=weight), disturbed(true), prior(10.0), tolerance=1e-9)
    assert position_error(found.state, true) < 1e-4


def test_the_prior_holds_depth_and_with_it_the_scale():
    true = truth()
    larger = BundleState(true.world_from_cam, true.log_depth + 0.3, K)  # contradicts the poses' unit
    found = adjust(sightings_of(true), larger, prior(0.001), tolerance=1e-9)
    assert torch.allclose(found.state.log_depth, larger.log_depth, atol=0.01)
    way = found.state.world_from_cam[:, :3, 3].diff(dim=0).norm(dim=1).sum()
    assert float(way / true.world_from_cam[:, :3, 3].diff(dim=0).norm(dim=1).sum()) == pytest.approx(1.35, rel=0.01)


@pytest.mark.parametrize("focal_sigma, expected", [(0.1, 1.0), (0.0, 1.06)])
def test_focal_length_is_found_if_it_is_not_known(focal_sigma, expected):
    true = truth()
    wrong = K.clone()
    wrong[:2, :2] *= 1.06
    found = adjust(sightings_of(true), BundleState(true.world_from_cam, true.log_depth, wrong), prior(1.0, focal_sigma))
    assert float(found.state.K[0, 0] / K[0, 0]) == pytest.approx(expected, abs=0.005)
    assert float(found.state.K[1, 1] / found.state.K[0, 0]) == pytest.approx(1.1)
    assert torch.equal(found.state.K[:, 2], K[:, 2])


def test_gradient_is_the_derivative_of_the_cost():
    true = truth()
    sightings, start = sightings_of(true, noise_px=0.5), disturbed(true)
    sigma, precision = 3e-3, torch.full((FRAMES, POINTS), 50.0)

    def cost(state: BundleState) -> float:
        (view,) = views(sightings, state, 100.0)
        change = (state.log_depth - true.log_depth).double()
        point = (view.weight.double() * torch.log1p(view.error2.double() / sigma**2)).sum()
        return 0.5 * float(point + 50.0 * change.square().sum())

    (view,) = views(sightings, start, 100.0)
    tile = linearise(view, sigma, precision, start.log_depth - true.log_depth)
    pull = (tile.local_from_global.mT @ tile.gradient[..., None])[..., 0]
    own = pull[5, -7:-1].clone()
    for frame, slot in (sightings.observer == 5).nonzero().tolist():
        if frame != 5:
            own += pull[frame, 6 * slot : 6 * slot + 6]
    step = 1e-4
    for axis in range(6):
        twist = torch.zeros(FRAMES, 6, dtype=torch.float64)
        twist[5, axis] = step
        ahead = cost(replace(start, world_from_cam=start.world_from_cam @ se3_exp(twist)))
        behind = cost(replace(start, world_from_cam=start.world_from_cam @ se3_exp(-twist)))
        assert (ahead - behind) / (2 * step) == pytest.approx(float(own[axis]), rel=2e-2, abs=2.0)
    zoomed = [replace(start, K=torch.cat([K[:, :2] * factor, K[:, 2:]], 1)) for factor in (1 + step, 1 - step)]
    for state in zoomed:
        state.K[2, 2] = 1.0
    assert (cost(zoomed[0]) - cost(zoomed[1])) / (2 * step) == pytest.approx(float(pull[:, -1].sum()), rel=2e-2)
    nearer = [start.log_depth.clone() for _ in range(2)]
    nearer[0][5, 7] += 1e-2
    nearer[1][5, 7] -= 1e-2
    slope = (cost(replace(start, log_depth=nearer[0])) - cost(replace(start, log_depth=nearer[1]))) / 2e-2
    assert slope == pytest.approx(float(tile.depth_gradient[5, 7]), rel=5e-2)


def test_information_counts_points():
    true = truth()
    once = sightings_of(true, noise_px=0.1)
    twice = Sightings(*(torch.cat([part, part], axis) for part, axis in zip(_parts(once), (0, 1, 1, 1), strict=True)))
    twice = replace(twice, pixels=once.pixels)
    one, two = (adjust(s, true, prior(0.1)).information for s in (once, twice))
    assert torch.allclose(one, one.mT) and bool((torch.linalg.eigvalsh(one) > 0).all())
    assert 1.5 < float(two.diagonal(dim1=1, dim2=2).sum() / one.diagonal(dim1=1, dim2=2).sum()) < 2.5


def _parts(s: Sightings) -> tuple[torch.Tensor, ...]:
    return s.pixels, s.observer, s.seen, s.weight


def test_points_behind_a_camera_do_no_harm():
    true = truth()
    good = sightings_of(true)
    start = disturbed(true)
    turned = start.world_from_cam.clone()
    turned[3, :3, :3] = turned[3, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    (view,) = views(good, BundleState(turned, start.log_depth, K), 100.0)
    by_turned = (good.observer == 3) & (good.weight[..., 0] > 0)
    assert bool((view.inverse[by_turned] == 0).all() and (view.error2[by_turned] == 1).all())
    found = adjust(good, BundleState(turned, start.log_depth, K), prior(0.1))
    assert bool(torch.isfinite(found.state.world_from_cam).all() and torch.isfinite(found.state.log_depth).all())


def test_nothing_seen_is_said():
    true = truth()
    sightings = sightings_of(true)
    with pytest.raises(ValueError, match="no point of any frame is seen"):
        adjust(replace(sightings, weight=torch.zeros_like(sightings.weight)), true, prior(0.1))
