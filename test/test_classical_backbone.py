"""The classical backbone through its interface, on analytic scenes."""

import numpy as np
import pytest
import torch
from helpers_classical import ROOM, SIZE, WALKER, K, angle, angle_between, network_input, pose, render

from easi3r_ros.core.classical import ClassicalBackbone
from easi3r_ros.core.geometry import focal_from_pointmap, weighted_procrustes
from easi3r_ros.core.two_view.flow import Flow, FlowEstimator, node_pixels

STEP = pose((0.12, -0.02, 0.05), (0.004, -0.012, 0.003))  # world_from_cam of the second frame; about 5 pixels of flow


def decode(images, order=((0, 1), (1, 0)), masks=None, K=K, backbone=None):
    backbone = backbone or ClassicalBackbone()
    features = [backbone.encode(network_input(image, i, K)) for i, image in enumerate(images)]
    return backbone.decode([(features[a], features[b]) for a, b in order], masks)


def a_from_b(pair, reverse) -> np.ndarray:
    """(4, 4) of the two orders of a pair: both know the points of b, in a's camera and in b's own."""
    rigid, scale = weighted_procrustes(
        reverse.points_a.reshape(-1, 3), pair.points_b.reshape(-1, 3), torch.ones(pair.conf_b.numel())
    )
    assert float(scale) == pytest.approx(1.0, abs=1e-4)
    return rigid.numpy()


def relative_depth_error(points, depth, where) -> float:
    ratio = points[..., 2].numpy()[where] / depth[where]
    return float(np.mean(np.abs(ratio / np.median(ratio) - 1)))


@pytest.fixture(scope="module")
def static_scene():
    frames = [render(ROOM, np.eye(4), 1), render(ROOM, STEP, 2)]
    return frames, decode([frame[0] for frame in frames])


def test_pose_and_depth_of_a_static_scene(static_scene):
    frames, (pair, reverse) = static_scene
    estimate = a_from_b(pair, reverse)
    assert angle(estimate[:3, :3] @ STEP[:3, :3].T) < 0.15
    assert angle_between(estimate[:3, 3], STEP[:3, 3]) < 3
    sure = pair.conf_a.numpy() > 1.2
    assert sure.mean() > 0.6
    assert relative_depth_error(pair.points_a, frames[0][1], sure) < 0.06


def test_both_views_have_one_scale(static_scene):
    frames, (pair, reverse) = static_scene
    ratios = [
        np.median((points[..., 2].numpy() / depth)[confidence.numpy() > 1.5])
        for points, depth, confidence in (
            (pair.points_a, frames[0][1], pair.conf_a),
            (reverse.points_a, frames[1][1], reverse.conf_a),
        )
    ]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)
    translation = np.linalg.norm(a_from_b(pair, reverse)[:3, 3])
    assert translation / ratios[0] == pytest.approx(np.linalg.norm(STEP[:3, 3]), rel=0.04)


def test_confidence_tells_good_depth_from_bad(static_scene):
    frames, (pair, _) = static_scene
    confidence = pair.conf_a.numpy()
    assert confidence.min() >= 1
    unsure, sure = confidence < np.quantile(confidence, 0.2), confidence > np.quantile(confidence, 0.5)
    assert relative_depth_error(pair.points_a, frames[0][1], sure) < 0.5 * relative_depth_error(
        pair.points_a, frames[0][1], unsure
    )


def test_nothing_moves_in_a_static_scene(static_scene):
    _, (pair, _) = static_scene
    for evidence in (pair.evidence.motion.a, pair.evidence.motion.b):
        assert evidence.min() >= 0
        assert (evidence > 7).float().mean() < 0.02
        assert evidence.median() < 2


def test_orders_agree(static_scene):
    _, (pair, reverse) = static_scene
    assert (pair.a, pair.b, reverse.a, reverse.b) == (0, 1, 1, 0)
    torch.testing.assert_close(pair.evidence.motion.a, reverse.evidence.motion.b)
    torch.testing.assert_close(pair.conf_b, reverse.conf_a)
    forth, back = a_from_b(pair, reverse), a_from_b(reverse, pair)
    np.testing.assert_allclose(forth @ back, np.eye(4), atol=1e-4)


def test_what_moves_stands_out():
    first = render((*ROOM, WALKER), np.eye(4), 1)
    second = render((*ROOM, WALKER.moved(0.1, -0.08, 0)), STEP, 2)
    pair, _ = decode([first[0], second[0]])
    moving = first[2] == len(ROOM)
    evidence = pair.evidence.motion.a.numpy()
    assert np.median(evidence[moving]) > 15
    assert np.mean(evidence[~moving] > 7) < 0.08  # a margin around the mover, as wide as the flow's patches
    assert np.median(pair.conf_a.numpy()[moving]) < 1.2 < np.median(pair.conf_a.numpy()[~moving])


def test_motion_along_the_epipolar_lines_shows_as_impossible_depth():
    sideways = pose((0.12, 0, 0))
    first = render((*ROOM, WALKER), np.eye(4), 1)
    second = render((*ROOM, WALKER.moved(0.2, 0, 0)), sideways, 2)  # overtakes the camera
    pair, _ = decode([first[0], second[0]])
    assert np.median(pair.evidence.motion.a.numpy()[first[2] == len(ROOM)]) > 10


def test_masks_keep_movers_out_of_the_pose():
    """A crowd that moves together: without masks it pulls at the pose, with them it does not."""
    crowd = [WALKER.moved(x, y, z) for x, y, z in ((0, 0, 0), (-0.9, 0.2, -0.4), (-1.9, 0, 0), (-0.2, -0.5, -0.6))]
    errors = {False: [], True: []}
    for seed, motion in enumerate(
        [(0.08, 0.05, 0), (-0.09, -0.03, 0), (0.05, -0.08, 0), (-0.03, 0.08, 0), (0, 0.06, 0)]
    ):
        first = render((*ROOM, *crowd), np.eye(4), seed)
        second = render((*ROOM, *(panel.moved(*motion) for panel in crowd)), STEP, seed + 10)
        masks = {i: torch.from_numpy(frame[2] >= len(ROOM)) for i, frame in enumerate((first, second))}
        for masked in errors:
            pair, reverse = decode([first[0], second[0]], masks=masks if masked else None)
            errors[masked].append(angle_between(a_from_b(pair, reverse)[:3, 3], STEP[:3, 3]))
    assert np.median(errors[True]) < 4
    assert np.median(errors[True]) < 0.5 * np.median(errors[False])


def test_a_turn_has_a_rotation_and_no_depth():
    turned = pose((0, 0, 0), (0.01, 0.05, -0.02))
    images = [render(ROOM, np.eye(4), 1)[0], render(ROOM, turned, 2)[0]]
    pair, reverse = decode(images)
    estimate = a_from_b(pair, reverse)
    assert angle(estimate[:3, :3] @ turned[:3, :3].T) < 0.03
    np.testing.assert_allclose(estimate[:3, 3], 0, atol=1e-5)
    assert pair.conf_a.max() == 1 == pair.conf_b.max()
    torch.testing.assert_close(pair.points_a[..., 2], torch.ones_like(pair.conf_a))


@pytest.mark.parametrize("noise", [0, 1])
def test_a_still_camera(noise):
    first, second = (render((*ROOM, WALKER), np.eye(4), seed * noise)[0] for seed in (1, 2))
    pair, reverse = decode([first, second])
    np.testing.assert_allclose(a_from_b(pair, reverse), np.eye(4), atol=1e-3)
    assert (pair.evidence.motion.a > 7).float().mean() < 0.01
    assert pair.conf_a.max() == 1


def test_no_texture_says_nothing():
    grey = np.full((48, 64, 3), 128, np.uint8)
    for pair in decode([grey, grey], K=None):
        assert pair.conf_a.max() == 1 == pair.conf_b.max()
        assert pair.evidence.motion.a.max() == 0
        assert torch.isfinite(pair.points_a).all() and torch.isfinite(pair.points_b).all()


def test_everything_masked_says_nothing(static_scene):
    frames, _ = static_scene
    everything = torch.ones(frames[0][0].shape[:2], dtype=torch.bool)
    pair, _ = decode([frame[0] for frame in frames], masks={0: everything, 1: everything})
    assert pair.conf_a.max() == 1
    assert torch.isfinite(pair.points_b).all()


def test_unrelated_images_do_no_harm():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (60, 80, 3), dtype=np.uint8) for _ in range(2)]
    for pair in decode(images):
        assert torch.isfinite(pair.points_a).all() and torch.isfinite(pair.points_b).all()
        assert torch.isfinite(pair.evidence.motion.a).all()


@pytest.mark.parametrize("shape", [(16, 16), (17, 63), (90, 31)])
def test_small_images_work(shape):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    backbone = ClassicalBackbone()
    features = [backbone.encode(network_input(image, i, None)) for i in range(2)]
    assert features[0].tokens.shape == (features[0].grid[0] * features[0].grid[1], 6)
    (pair,) = backbone.decode([tuple(features)])
    assert pair.points_a.shape == (*shape, 3)


def test_an_image_too_small_is_refused_in_words():
    with pytest.raises(ValueError, match=r"at least 16 pixels.*40 x 12.*long_side"):
        ClassicalBackbone().encode(network_input(np.zeros((12, 40, 3), np.uint8), 0))


def test_without_intrinsics_the_prior_is_used_until_a_turn_tells_better():
    backbone = ClassicalBackbone(horizontal_fov=90.0)
    centre = (80.0, 60.0)
    moved = decode([render(ROOM, np.eye(4), 1)[0], render(ROOM, STEP, 2)[0]], K=None, backbone=backbone)
    assert focal_from_pointmap(moved[0].points_a, centre) == pytest.approx(80.0, rel=0.01)  # 160 / 2 / tan(45 deg)
    poses = [pose((0, 0, 0), (0.01 * i, 0.05 * i, 0)) for i in range(4)]
    images = [render(ROOM, world_from_cam, i)[0] for i, world_from_cam in enumerate(poses)]
    features = [backbone.encode(network_input(image, i, None)) for i, image in enumerate(images)]
    focals = [
        focal_from_pointmap(backbone.decode([(later, earlier)])[0].points_a, centre)
        for earlier, later in zip(features[:-1], features[1:], strict=True)
    ]
    assert focals[-1] == pytest.approx(K[0, 0], rel=0.04)


def test_flow_is_computed_once_for_both_orders_and_both_passes(static_scene, monkeypatch):
    frames, _ = static_scene
    calls = []
    original = FlowEstimator.both_ways
    monkeypatch.setattr(
        FlowEstimator, "both_ways", lambda *args, **options: calls.append(1) or original(*args, **options)
    )
    backbone = ClassicalBackbone()
    a, b = (backbone.encode(network_input(frame[0], i)) for i, frame in enumerate(frames))
    backbone.decode([(a, b), (b, a)])
    mask = torch.zeros(frames[0][0].shape[:2], dtype=torch.bool)
    mask[20:40, 20:40] = True
    backbone.decode([(a, b), (b, a)], {0: mask, 1: mask})
    assert len(calls) == 1


def test_a_second_pass_without_movers_changes_nothing(static_scene):
    frames, _ = static_scene
    backbone = ClassicalBackbone()
    a, b = (backbone.encode(network_input(frame[0], i)) for i, frame in enumerate(frames))
    (first,) = backbone.decode([(a, b)])
    (second,) = backbone.decode([(a, b)], {0: torch.zeros(frames[0][0].shape[:2], dtype=torch.bool)})
    assert float((first.points_a - second.points_a).abs().median()) < 1e-2


@pytest.mark.parametrize(("shift", "seconds"), [(0.0, 0.15), (1.5, 0.15), (2.496, 0.1), (10.0, 0.08)])
def test_the_longer_pair_reaches_less_far_back_the_faster_the_image_is(shift, seconds):
    """shift: pixels from frame to frame at 10 Hz; an image 160 pixels wide may move by 2.496."""
    backbone = ClassicalBackbone()
    frames = [backbone.encode(network_input(render(ROOM, np.eye(4))[0], i)) for i in range(3)]
    assert backbone.partners_after(frames) == backbone.default_partners  # no flow is known yet
    nodes = node_pixels(*SIZE[::-1])
    shape = nodes.shape[1:]
    moved = nodes + np.float32(shift) * np.array([1, 0], np.float32)[:, None, None]
    flow = Flow(SIZE, moved, np.ones((3, *shape), np.float32), np.zeros(shape, np.float32))
    frames[1].tracked.flows[0], frames[1].tracked.seconds[0] = flow, -0.1
    assert backbone.partners_after(frames).seconds == pytest.approx((0.0, seconds))


def test_that_a_calibration_would_help_is_said_once(caplog):
    backbone, image = ClassicalBackbone(), render(ROOM, np.eye(4))[0]
    backbone.encode(network_input(image, 0))
    assert not caplog.records
    for i in (1, 2):
        backbone.encode(network_input(image, i, None))
    (record,) = caplog.records
    assert "60 degrees" in record.getMessage() and "6.7 %" in record.getMessage()
