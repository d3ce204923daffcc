"""The incremental alignment on simulated pairs of a rendered clip, whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic import render_clip
from easi3r_lab.synthetic.true_pairs import PairNoise, simulate_pair

from easi3r_ros.core.alignment.incremental import IncrementalAligner, thin, thin_intrinsics
from easi3r_ros.core.config import AlignmentConfig
from easi3r_ros.core.geometry import unproject, weighted_procrustes
from easi3r_ros.core.types import PairEvidence, PairGeometry, TrackingState

OFFSETS = (1, 3)
SHAPE = (72, 96)


@pytest.fixture(scope="module")
def clip():
    return render_clip("walkers", seed=3, frames=40, size=SHAPE[::-1], rate=10.0)


def pairs_of(clip, index, rng, offsets=OFFSETS):
    partners = sorted({max(index - offset, 0) for offset in offsets} - {index})
    return [simulate_pair(clip, a, b, rng) for k in partners for a, b in ((index, k), (k, index))]


def align(clip, frames, *, masks=True, K=True, config=None, spoil=None):
    """All AlignedFrames of the first `frames` frames. spoil(index, pairs) -> pairs may break some."""
    rng = np.random.default_rng(0)
    aligner = IncrementalAligner(config or AlignmentConfig(), memory=8)
    results = []
    for index in range(frames):
        pairs = pairs_of(clip, index, rng)
        if spoil is not None:
            pairs = spoil(index, pairs)
        known = {i: torch.from_numpy(clip.masks[i]) for i in range(index + 1)} if masks else {}
        results.append(aligner.update(index, pairs, known, clip.K if K else None, SHAPE))
    return results


def ate_share(clip, results):
    """ATE rmse after Sim(3) alignment, as share of the path."""
    estimate = torch.from_numpy(np.stack([r.world_from_cam[:3, 3] for r in results]))
    truth = torch.from_numpy(clip.world_from_cam[: len(results), :3, 3])
    rigid, scale = weighted_procrustes(estimate, truth, torch.ones(len(results)))
    error = scale * estimate @ rigid[:3, :3].mT + rigid[:3, 3] - truth
    return float(error.norm(dim=-1).square().mean().sqrt() / (truth[1:] - truth[:-1]).norm(dim=-1).sum())


def depth_error(clip, results):
    """Mean AbsRel of static depth over the tracked frames, all with one scale."""
    ratios = [r.depth.numpy() / clip.depth[r.index] for r in results if r.state is TrackingState.TRACKING]
    static = [~clip.masks[r.index] for r in results if r.state is TrackingState.TRACKING]
    values = np.concatenate([ratio[s & np.isfinite(ratio)] for ratio, s in zip(ratios, static, strict=True)])
    return np.abs(values / np.median(values) - 1).mean()


def test_trajectory_and_depth_follow_the_truth(clip):
    results = align(clip, 40)
    assert [r.state for r in results[1:]] == [TrackingState.TRACKING] * 39
    assert ate_share(clip, results) < 0.01
    assert depth_error(clip, results) < 0.01  # below the 1 % noise of a single pair: depth is fused over time


def test_masks_keep_movers_from_dragging_the_camera(clip):
    with_masks = ate_share(clip, align(clip, 25))
    without = ate_share(clip, align(clip, 25, config=AlignmentConfig(static_weighting=False)))
    assert with_masks < 0.7 * without


@pytest.mark.parametrize("widening", [0.85, 1.2])
def test_a_network_may_believe_in_another_focal_length(clip, widening):
    """Networks know no camera_info: their pointmaps are too wide or too narrow, in the directions of a's camera."""

    def spoil(index, pairs):
        stretch = torch.tensor([widening, widening, 1.0])
        return [replace(p, points_a=p.points_a * stretch, points_b=p.points_b * stretch) for p in pairs]

    results = align(clip, 25, spoil=spoil)
    assert [r.state for r in results[1:]] == [TrackingState.TRACKING] * 24
    assert ate_share(clip, results) < 0.03


def test_unknown_focal_is_found(clip):
    results = align(clip, 10, K=False)
    assert results[-1].K[0, 0] == pytest.approx(clip.K[0, 0], rel=0.02)
    assert ate_share(clip, results) < 0.02


def test_first_frame_is_the_origin_and_has_no_depth_yet(clip):
    first = align(clip, 1)[0]
    assert first.state is TrackingState.INITIALISING
    assert np.array_equal(first.world_from_cam, np.eye(4))
    assert not torch.isfinite(first.depth).any()
    assert np.isnan(first.residual)
    assert (np.diag(first.covariance) == 1e6).all()  # a filter would take zero for a camera that surely stands still


def test_a_measured_pose_has_a_covariance_of_the_size_of_its_error(clip):
    first = align(clip, 2)[1]
    assert first.state is TrackingState.TRACKING
    sigma = np.sqrt(np.diag(first.covariance))
    # The truth in world units: the median depth of the first frame's static rest is one.
    unit = np.median(clip.depth[0][~clip.masks[0]])
    true = np.linalg.inv(clip.world_from_cam[0]) @ clip.world_from_cam[1]
    error = np.linalg.norm(first.world_from_cam[:3, 3] - true[:3, 3] / unit)
    assert 1e-6 < sigma.min() < sigma.max() < 0.05 and error < 30 * sigma[:3].max()


def test_nothing_left_to_attach_to_starts_a_new_world(clip):
    """Every pair from one moment on is of frames that the world before does not know."""
    rng = np.random.default_rng(0)
    aligner = IncrementalAligner(AlignmentConfig(), memory=3)
    results = [aligner.update(i, pairs_of(clip, i, rng, offsets=(1,)), {}, clip.K, SHAPE) for i in range(4)]
    results += [aligner.update(i, [], {}, clip.K, SHAPE) for i in range(4, 8)]  # blind
    results += [aligner.update(i, pairs_of(clip, i, rng, offsets=(1,)), {}, clip.K, SHAPE) for i in range(8, 12)]
    assert [r.world for r in results[:4]] == [0] * 4 and results[3].state is TrackingState.TRACKING
    assert results[4].state is TrackingState.LOST
    assert [r.state for r in results[8:]] == [TrackingState.TRACKING] * 4 and [r.world for r in results[8:]] == [1] * 4
    assert not any(np.diag(r.covariance).min() < 1e6 for r in results[4:8])
    assert float(results[-1].depth.nanmedian()) == pytest.approx(float(results[3].depth.nanmedian()), rel=0.3)


def test_a_moment_without_anything_static_does_not_spoil_the_unit_of_a_later_world(clip):
    """The frame has a pose, from what is static in the frames before it, but no depth."""
    rng = np.random.default_rng(0)
    aligner = IncrementalAligner(AlignmentConfig(), memory=3)
    for i in range(3):
        aligner.update(i, pairs_of(clip, i, rng, offsets=(1,)), {}, clip.K, SHAPE)
    pairs = pairs_of(clip, 3, rng, offsets=(1,))
    unsure = [replace(pair, conf_a=torch.ones(SHAPE), conf_b=torch.ones(SHAPE)) for pair in pairs]
    everything = {3: torch.ones(SHAPE, dtype=torch.bool)}
    blank = aligner.update(3, unsure, everything, clip.K, SHAPE)
    assert blank.state.has_pose and not torch.isfinite(blank.depth).any()
    for i in range(4, 8):
        aligner.update(i, [], {}, clip.K, SHAPE)
    again = [aligner.update(i, pairs_of(clip, i, rng, offsets=(1,)), {}, clip.K, SHAPE) for i in range(8, 10)]
    assert again[-1].state is TrackingState.TRACKING and again[-1].world == 1


def test_a_pair_without_parallax_turns_but_does_not_start_a_world(clip):
    """A camera that only rotates: no depth can be known, the rotation can."""
    angle = 0.05
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    v, u = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    rays = np.stack([(u - clip.K[0, 2]) / clip.K[0, 0], (v - clip.K[1, 2]) / clip.K[1, 1], np.ones(SHAPE)], -1)
    rays = torch.from_numpy(rays.astype(np.float32))
    turn = torch.from_numpy(rotation.astype(np.float32))  # 0_from_1
    nothing = torch.ones(SHAPE)
    pairs = [
        PairGeometry(1, 0, rays, rays @ turn, nothing, nothing, PairEvidence()),
        PairGeometry(0, 1, rays, rays @ turn.mT, nothing, nothing, PairEvidence()),
    ]
    aligner = IncrementalAligner(AlignmentConfig(), memory=8)
    aligner.update(0, [], {}, clip.K, SHAPE)
    result = aligner.update(1, pairs, {}, clip.K, SHAPE)
    assert result.state is TrackingState.INITIALISING
    assert "parallax" in result.reason
    assert (np.diag(result.covariance) == 1e6).all()
    assert np.allclose(result.world_from_cam[:3, :3], rotation, atol=1e-4)
    assert np.allclose(result.world_from_cam[:3, 3], 0)


def test_noise_is_reported_as_lost_and_tracking_recovers(clip):
    bad = {15, 16}

    def spoil(index, pairs):
        generator = torch.Generator().manual_seed(index)
        return [
            replace(
                pair,
                points_a=torch.randn(*SHAPE, 3, generator=generator),
                points_b=torch.randn(*SHAPE, 3, generator=generator),
            )
            if bad & {pair.a, pair.b}
            else pair
            for pair in pairs
        ]

    results = align(clip, 30, spoil=spoil)
    for index in bad:
        assert results[index].state is TrackingState.LOST and results[index].reason
        assert np.array_equal(results[index].world_from_cam, results[14].world_from_cam)
        assert results[index].covariance[0, 0] > 1e3  # nobody may take a held pose for a measured one
    assert all(r.state is TrackingState.TRACKING for r in results[20:])
    assert all(np.isfinite(r.world_from_cam).all() for r in results)
    assert ate_share(clip, results) < 0.03


def test_everything_moving_is_said_and_the_pose_held(clip):
    rng = np.random.default_rng(0)
    aligner = IncrementalAligner(AlignmentConfig(), memory=4)
    everything = {i: torch.ones(SHAPE, dtype=torch.bool) for i in range(12)}
    tracked = [aligner.update(i, pairs_of(clip, i, rng), {}, clip.K, SHAPE) for i in range(5)]
    moving = [aligner.update(i, pairs_of(clip, i, rng), everything, clip.K, SHAPE) for i in range(5, 12)]
    assert moving[-1].state in (TrackingState.LOST, TrackingState.INITIALISING)
    assert any("no static pixel" in result.reason for result in moving)
    assert np.isfinite(moving[-1].world_from_cam).all()
    assert np.linalg.norm(moving[-1].world_from_cam[:3, 3] - tracked[-1].world_from_cam[:3, 3]) < 0.2


def test_memory_is_bounded(clip):
    rng = np.random.default_rng(0)
    aligner = IncrementalAligner(AlignmentConfig(), memory=4)
    for index in range(12):
        aligner.update(index, pairs_of(clip, index, rng, offsets=(1,)), {}, clip.K, SHAPE)
    assert len(aligner._anchors) == 4


def test_covariance_shrinks_with_better_pairs(clip):
    def sigma(relative):
        rng = np.random.default_rng(1)
        aligner = IncrementalAligner(AlignmentConfig(), memory=8)
        for index in range(4):
            partners = {max(index - 1, 0)} - {index}
            noise = PairNoise(relative=relative)
            pairs = [simulate_pair(clip, a, b, rng, noise) for k in partners for a, b in ((index, k), (k, index))]
            result = aligner.update(index, pairs, {}, clip.K, SHAPE)
        assert np.allclose(result.covariance, result.covariance.T)
        return np.sqrt(result.covariance[0, 0])

    assert sigma(0.01) < sigma(0.2)


@pytest.mark.parametrize("shape", [(72, 96), (73, 97)])
def test_thinned_maps_point_to_the_same_rays(clip, shape):
    depth = torch.rand(shape) + 1.0
    points = unproject(depth, torch.from_numpy(clip.K))
    small = thin_intrinsics(clip.K, 2)
    again = unproject(thin(depth, 2), torch.from_numpy(small))
    assert torch.allclose(thin(points, 2), again, atol=1e-5)


def test_thinned_alignment_gives_full_size_maps_of_the_same_world(clip):
    rng = np.random.default_rng(0)
    aligner = IncrementalAligner(AlignmentConfig(), memory=8, stride=2)
    masks = {i: torch.from_numpy(clip.masks[i]) for i in range(25)}
    results = [aligner.update(i, pairs_of(clip, i, rng), masks, clip.K, SHAPE) for i in range(25)]
    last = results[-1]
    assert tuple(last.depth.shape) == tuple(last.confidence.shape) == SHAPE
    assert np.array_equal(last.K, clip.K)
    assert ate_share(clip, results) < 0.01
    assert depth_error(clip, results) < 0.03  # nearest pixels: steps at slanted surfaces
    odd = IncrementalAligner(AlignmentConfig(), memory=8, stride=2).update(0, [], {}, clip.K, (73, 97))
    assert tuple(odd.depth.shape) == (73, 97)
