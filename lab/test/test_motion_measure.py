"""Motion measured for networks: flow against what their pointmaps predict."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic import render_clip
from helpers_motion import SimulatedNetwork, frame_of

from easi3r_ros.core.config import PreprocessConfig
from easi3r_ros.core.engine import Parcel
from easi3r_ros.core.motion.residual import (
    MotionMeter,
    measured_edges,
    measured_intrinsics,
    offer_nodes,
    pose_from_pointmap,
)
from easi3r_ros.core.preprocess import prepare
from easi3r_ros.core.two_view.refine import Camera
from easi3r_ros.core.types import PairEvidence, PairGeometry, PairMotion

SIGNIFICANT = 7.0


@pytest.fixture(scope="module")
def static_clip():
    return render_clip("static", seed=2, frames=6, size=(256, 192), rate=15.0)


@pytest.fixture(scope="module")
def moving_clip():
    return render_clip("tabletop", seed=0, frames=6, size=(256, 192), rate=15.0)


def answers(clip, edges, noise=0.02, known_camera=True):
    network = SimulatedNetwork(clip, noise=noise)
    indices = sorted({index for edge in edges for index in edge})
    frames = {i: frame_of(clip, i, known_camera) for i in indices}
    features = {i: network.encode(prepare(frames[i], network.input_spec, PreprocessConfig())) for i in indices}
    return features, network.decode([(features[a], features[b]) for a, b in edges])


def completed(features, pairs, meter=None, moving=None):
    """One pass of the pipeline."""
    meter, parcel = meter or MotionMeter(), Parcel("motion")
    wanted = meter.measurable(features, pairs)
    meter.offer([pair for pair in pairs if pair.edge in wanted], parcel)
    return meter.complete(features, pairs, moving)


def measured(clip, edges, **options):
    features, pairs = answers(clip, edges, **options)
    return {pair.edge: pair.evidence.motion for pair in completed(features, pairs)}


def both_ways(newest, *others):
    return [edge for other in others for edge in ((newest, other), (other, newest))]


@pytest.mark.parametrize(("noise", "known_camera"), [(0.0, True), (0.1, True), (0.02, False)])
def test_nothing_moves_in_a_static_scene_however_wrong_depth_is(static_clip, noise, known_camera):
    for motion in measured(static_clip, both_ways(5, 4, 2), noise=noise, known_camera=known_camera).values():
        for sigmas in (motion.a, motion.b):
            assert sigmas.shape == (192, 256) and sigmas.dtype == torch.float32
            assert np.median(sigmas) < 2 and (sigmas > SIGNIFICANT).float().mean() < 0.02


def test_depth_that_is_wrong_everywhere_alike_is_a_matter_of_scale(static_clip):
    features, pairs = answers(static_clip, both_ways(5, 3))
    first = completed(features, pairs)[0].evidence.motion
    scaled = [replace(pair, points_a=7 * pair.points_a, points_b=7 * pair.points_b) for pair in pairs]
    second = completed(features, scaled)[0].evidence.motion
    assert torch.quantile((first.a - second.a).abs(), 0.9) < 0.2


def test_movers_stand_out_in_both_views(moving_clip):
    edges = both_ways(5, 4, 3)
    motions = measured(moving_clip, edges)
    for a, b in edges:
        for index, sigmas in ((a, motions[a, b].a), (b, motions[a, b].b)):
            moving = torch.from_numpy(moving_clip.masks[index])
            assert (sigmas[moving] > SIGNIFICANT).float().mean() > 0.6
            assert (sigmas[~moving] > SIGNIFICANT).float().mean() < 0.03


def test_both_orders_say_the_same_and_flow_leads_to_the_partner(moving_clip):
    motions = measured(moving_clip, both_ways(5, 4))
    one, other = motions[5, 4], motions[4, 5]
    assert one.a is other.b and one.b is other.a and one.flow_a is other.flow_b
    truth = torch.from_numpy(moving_clip.flow(5, 4)).movedim(-1, 0)[:, 1::2, 1::2]
    error = (one.flow_a - truth).norm(dim=0)
    assert error[error.isfinite()].median() < 0.3 and error.isfinite().float().mean() > 0.8


def test_what_the_backbone_measured_is_kept(static_clip):
    features, pairs = answers(static_clip, both_ways(5, 4))
    own = PairMotion(torch.zeros(192, 256), torch.zeros(192, 256))
    pairs = [replace(pair, evidence=PairEvidence(motion=own)) for pair in pairs]
    assert all(pair.evidence.motion is own for pair in completed(features, pairs))


def test_pointmaps_of_nonsense_give_no_evidence(static_clip):
    features, pairs = answers(static_clip, both_ways(5, 4))
    nonsense = [replace(pair, points_b=torch.full_like(pair.points_b, torch.nan)) for pair in pairs]
    assert all(pair.evidence.motion is None for pair in completed(features, nonsense))


def test_frames_that_left_the_window_are_forgotten(static_clip):
    features, pairs = answers(static_clip, both_ways(5, 4) + both_ways(4, 3))
    meter = MotionMeter()
    completed(features, pairs, meter)
    assert set(meter._tracked) == {3, 4, 5}
    completed({i: features[i] for i in (4, 5)}, pairs[:2], meter)
    assert set(meter._tracked) == {4, 5}
    meter.reset()
    assert not meter._tracked


def test_near_and_far_pairs_are_measured():
    stamps = {i: i * 50_000_000 for i in range(12)}  # 20 Hz
    edges = [edge for step in (1, 3, 5, 7, 9) for edge in ((10, 10 - step), (10 - step, 10))]
    assert measured_edges(edges, stamps) == [(10, 9), (10, 7), (10, 3)]  # 0.05, 0.15, 0.35 s: as near as there are
    assert measured_edges([(3, 10), (10, 9), (9, 10)], stamps) == [(10, 9), (3, 10)]
    assert measured_edges([], stamps) == []


def test_pose_of_a_pointmap(static_clip):
    _, pairs = answers(static_clip, [(5, 1)], noise=0.01)
    camera = Camera(static_clip.K[[0, 1], [0, 1]], static_clip.K[:2, 2])
    points = offer_nodes(pairs[0], Parcel("motion")).open()
    pose = pose_from_pointmap(points.points_b, points.pixels, camera)
    truth = np.linalg.inv(static_clip.world_from_cam[1]) @ static_clip.world_from_cam[5]
    assert np.degrees(np.arccos((np.trace(pose[:3, :3].T @ truth[:3, :3]) - 1) / 2)) < 0.5
    found, true = (t / np.linalg.norm(t) for t in (pose[:3, 3], truth[:3, 3]))
    assert found @ true > 0.9


def test_what_moves_along_its_epipolar_line_contradicts_depth_alone(static_clip):
    """A thing at the right place of the image for a point three times as near."""
    features, pairs = answers(static_clip, both_ways(5, 2))
    block = torch.zeros(192, 256, dtype=torch.bool)
    block[120:180, 60:200] = True
    wrong = [replace(pair, points_a=torch.where(block[..., None], 3 * pair.points_a, pair.points_a)) for pair in pairs]
    sigmas = completed(features, wrong)[0].evidence.motion.a
    inside, outside = (sigmas[where].median() for where in (block, ~block))
    assert inside > 2 * SIGNIFICANT and outside < 2, (inside, outside)


def test_the_flow_that_a_thread_found_meanwhile_is_the_same(moving_clip):
    features, pairs = answers(moving_clip, both_ways(5, 4, 3))
    ahead, alone = MotionMeter(), MotionMeter()
    ahead.start(features, [pair.edge for pair in pairs])
    for one, other in zip(completed(features, pairs, ahead), completed(features, pairs, alone), strict=True):
        assert torch.equal(one.evidence.motion.a, other.evidence.motion.a)
    assert ahead._running is None


def test_what_goes_wrong_in_the_thread_is_told_to_who_waits_and_not_to_a_reset(moving_clip, monkeypatch):
    features, pairs = answers(moving_clip, both_ways(5, 4))

    def broken(*_):
        raise MemoryError("simulated")

    meter = MotionMeter()
    monkeypatch.setattr(meter, "_find_flows", broken)
    meter.start(features, [pair.edge for pair in pairs])
    with pytest.raises(MemoryError):
        completed(features, pairs, meter)
    meter.start(features, [pair.edge for pair in pairs])
    meter.reset()


def test_the_second_pass_measures_the_same_pairs_without_what_moves(moving_clip):
    features, pairs = answers(moving_clip, both_ways(5, 4, 3))
    meter = MotionMeter()
    first = completed(features, pairs, meter)
    told = [pair.evidence.motion is not None for pair in first]
    cells = {i: moving_clip.masks[i][::2, ::2] for i in (3, 4, 5)}
    second = meter.complete(features, pairs, cells)
    assert [pair.evidence.motion is not None for pair in second] == told and all(told)
    assert not torch.equal(first[0].evidence.motion.a, second[0].evidence.motion.a)
    static = ~torch.from_numpy(moving_clip.masks[5])
    assert (second[0].evidence.motion.a[static] > SIGNIFICANT).float().mean() < 0.03


def test_images_larger_than_the_flow_s_are_shrunk_with_their_camera():
    K = np.array([[460.0, 0, 256.0], [0, 460.0, 144.0], [0, 0, 1]])
    small = measured_intrinsics(K, (512, 288))
    assert small[0, 0] == pytest.approx(460 * 320 / 512) and small[0, 2] == pytest.approx(256.5 * 320 / 512 - 0.5)
    height, width = 288, 512
    v, u = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    points = torch.stack(((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)), -1)
    one = torch.ones(height, width)
    nodes = offer_nodes(PairGeometry(1, 0, points, points, one, one, PairEvidence()), Parcel("motion")).open()
    assert nodes.conf_a.shape == (90, 160)
    seen = nodes.points_b[..., :2] * small[[0, 1], [0, 1]] + small[:2, 2]
    np.testing.assert_allclose(seen, nodes.pixels, atol=1e-3)
