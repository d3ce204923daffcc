"""The embedded network: two views brought together from depth and matches, and the shipped weights at work."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic.training import correspondence, training_views
from easi3r_lab.tiny.backbone import WEIGHTS
from easi3r_lab.tiny.relative import View, depth_of_both, in_first_camera, mean_depth, relative_pose
from easi3r_lab.training.attention_matches import TokenMatches
from easi3r_lab.training.evaluation import rotation_degrees

from easi3r_ros.core.backbone import build_backbone
from easi3r_ros.core.config import BackboneConfig, ConfigError, PipelineConfig, PreprocessConfig, with_settings
from easi3r_ros.core.dust3r.checkpoints import CheckpointError
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.preprocess import prepare
from easi3r_ros.core.types import Frame, PairEvidence, PairGeometry, TrackingState

PATCH = 8
MEGABYTES = 12  # the most that the weights may take
SEED = 11


@pytest.fixture(scope="module")
def views():
    return training_views(SEED, 8, 2, (96, 72))


def view(views, scene, index, scale=1.0):
    depth = torch.where(views.parts[scene, index] >= 0, views.depth[scene, index], 50.0) * scale
    static = ~views.masks()[scene, index]
    return View(depth, torch.full_like(depth, 3.0), static, views.K[scene].double().numpy())


def true_matches(views, scene):
    """Where the middles of a's tokens are in b, pixel (4, 4) being half a pixel off the middle."""
    uv, visible = correspondence(views, 0, 1)
    middle = slice(PATCH // 2, None, PATCH)
    pixels = uv[scene, middle, middle].reshape(-1, 2).nan_to_num(0.0) - 0.5
    return TokenMatches(pixels, visible[scene, middle, middle].flatten().float())


@pytest.mark.parametrize("scene", range(4))
def test_true_depth_and_matches_give_the_true_pose_and_scale(views, scene):
    pose = relative_pose(view(views, scene, 0), view(views, scene, 1, scale=0.4), true_matches(views, scene), PATCH)
    a_from_b = torch.linalg.solve(views.world_from_cam[scene, 0], views.world_from_cam[scene, 1]).double()
    assert rotation_degrees(pose.a_from_b[:3, :3].mT @ a_from_b[:3, :3]) < 0.3
    depth = views.depth[scene, 0]
    assert (pose.a_from_b[:3, 3] - a_from_b[:3, 3]).norm() < 0.02 * depth[depth.isfinite()].median()
    assert pose.scale == pytest.approx(2.5, rel=0.03)
    carried = in_first_camera(view(views, scene, 1, scale=0.4), pose)
    truth = (
        torch.einsum("ij,hwj->hwi", a_from_b[:3, :3].float(), view(views, scene, 1).points) + a_from_b[:3, 3].float()
    )
    assert ((carried - truth).norm(dim=-1) / truth.norm(dim=-1)).median() < 0.05


def test_both_towers_are_asked_for_the_depth_of_a_frame(views):
    """The frame as view b, in another camera and unit, with another error: the errors meet in the middle."""
    points = view(views, 0, 0).points
    pose = torch.linalg.inv(views.world_from_cam[0, 1]) @ views.world_from_cam[0, 0]
    elsewhere = 0.3 * (points @ pose[:3, :3].T + pose[:3, 3])
    sure = torch.full(points.shape[:2], 3.0)
    evidence = PairEvidence()
    own = PairGeometry(0, 1, points, points, sure, sure, evidence)
    other = PairGeometry(1, 0, elsewhere, elsewhere, sure, sure, evidence)
    torch.testing.assert_close(depth_of_both(own, other), points[..., 2], rtol=1e-3, atol=1e-3)
    wavy = 1 + 0.2 * torch.sin(torch.arange(points.shape[1]))[None, :, None]
    doubtful = depth_of_both(replace(own, points_a=points * wavy), other)
    assert (doubtful / points[..., 2] - 1).abs().mean() < 0.6 * (wavy - 1).abs().mean()


def test_the_mean_depth_has_the_unit_of_the_first(views):
    depth = view(views, 0, 0).depth
    torch.testing.assert_close(mean_depth([depth, 0.2 * depth]), depth)
    torch.testing.assert_close(
        mean_depth([depth, depth.median() ** 2 / depth]), depth.median().expand_as(depth), rtol=1e-3, atol=0
    )


def test_movers_have_no_say(views):
    """A quarter of the tokens is moved by 12 pixels: harmless if they are known to move."""
    a, b, matches = view(views, 0, 0), view(views, 0, 1), true_matches(views, 0)
    wrong = matches.pixels.clone()
    wrong[: len(wrong) // 4, 0] += 12.0
    spoiled = TokenMatches(wrong, matches.weight)
    static = a.static.clone()
    static[: len(static) // 4 + PATCH] = False
    informed = relative_pose(replace(a, static=static), b, spoiled, PATCH)
    truth = relative_pose(a, b, matches, PATCH)
    assert rotation_degrees(informed.a_from_b[:3, :3].mT @ truth.a_from_b[:3, :3]) < 1.0


def test_matches_without_sense_are_refused(views):
    random = torch.rand(108, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([95.0, 71.0])
    with pytest.raises(ValueError, match="agree with a pose"):
        relative_pose(view(views, 0, 0), view(views, 0, 1), TokenMatches(random, torch.ones(108)), PATCH)
    with pytest.raises(ValueError):
        relative_pose(view(views, 0, 0), view(views, 0, 1), TokenMatches(random, torch.zeros(108)), PATCH)


def test_weights_are_small_and_there():
    assert (WEIGHTS / "model.safetensors").stat().st_size < MEGABYTES * 1e6


def test_a_package_without_them_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("easi3r_lab.tiny.backbone.WEIGHTS", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="install it again"):
        build_backbone(BackboneConfig(name="tiny"))


def test_both_orders_of_a_pair_tell_the_same_story(views):
    backbone = build_backbone(BackboneConfig(name="tiny"))
    pipeline = Pipeline(PipelineConfig(), backbone)
    for index in (0, 1):
        pipeline.push(frame_of(views, 0, index))
    a, b = pipeline._window.features.values()
    forward, reverse = backbone.decode([(a, b), (b, a)])
    alone = backbone.decode([(b, a)])[0]
    torch.testing.assert_close(alone.points_b, reverse.points_b)
    assert forward.edge == (0, 1) and reverse.edge == (1, 0)
    for pair in (forward, reverse):
        assert pair.points_a.shape == pair.points_b.shape == (72, 96, 3)
        assert pair.points_b.isfinite().all()
        assert pair.conf_a.min() >= 1
        assert pair.evidence.attention is not None
        assert pair.evidence.head.a.shape == (72, 96)
    with pytest.raises(ValueError, match="different sizes"):
        backbone.decode([(a, replace(b, grid=(3, 4)))])


@pytest.mark.parametrize("masked", [False, True], ids=["nothing moves", "left part moves"])
def test_left_and_right_are_alike(views, masked):
    """A mirrored camera sees the mirrored world and finds the mirrored matches, though the network alone does not."""
    backbone = build_backbone(BackboneConfig(name="tiny"))

    mask = torch.zeros(72, 96, dtype=torch.bool)
    mask[:, :24] = masked

    def seen(images, mask):
        inputs = [
            prepare(replace(frame_of(views, 0, i), image=image), backbone.input_spec, PreprocessConfig())
            for i, image in enumerate(images)
        ]
        return next(backbone._look([tuple(backbone.encode(image) for image in inputs)], {0: mask, 1: mask}))

    images = [views.images[0, i].numpy() for i in (0, 1)]
    plain = seen(images, mask)
    mirrored = seen([np.ascontiguousarray(image[:, ::-1]) for image in images], mask.flip(1))
    ratio = mirrored.views[0].depth.flip(1) / plain.views[0].depth
    torch.testing.assert_close(ratio / ratio.mean(), torch.ones_like(ratio), rtol=1e-3, atol=1e-3)
    weight, back = (pair.matches[0].weight.view(9, 12) for pair in (plain, mirrored))
    torch.testing.assert_close(back.flip(1), weight, rtol=1e-3, atol=1e-3)
    pixels, again = (pair.matches[0].pixels.view(9, 12, 2) for pair in (plain, mirrored))
    sure = weight > 0.1
    assert sure.float().mean() > 0.3
    torch.testing.assert_close(95 - again.flip(1)[sure][:, 0], pixels[sure][:, 0], rtol=0, atol=0.05)


def test_the_second_look_can_be_switched_off(views):
    """Half the images go through the encoder, and the depth is another."""
    depths, encoded = [], []
    for mirror in (True, False):
        backbone = build_backbone(BackboneConfig(name="tiny", mirror=mirror))
        encode, images = backbone.network.encode, []
        backbone.network.encode = lambda image, encode=encode, images=images: images.append(image) or encode(image)
        a, b = (
            backbone.encode(prepare(frame_of(views, 0, i), backbone.input_spec, PreprocessConfig())) for i in (0, 1)
        )
        depths.append(backbone.decode([(a, b)])[0].points_a[..., 2])
        encoded.append(len(images))
    assert encoded == [4, 2]
    assert not torch.allclose(*depths, rtol=1e-3)


def frame_of(views, scene, index):
    return Frame(
        index, index * 100_000_000, "camera", views.images[scene, index].numpy(), views.K[scene].double().numpy()
    )


def test_it_tracks_a_rendered_walk():
    from easi3r_lab.eval.synthetic_clips import ClipSpec, evaluate, render

    spec = ClipSpec("static", 4, frames=14, size=(128, 96), rate=10.0)
    score = evaluate(spec, render(spec), with_settings(PipelineConfig(), {"backbone.name": "tiny"}))
    assert score.backbone == "tiny"
    assert score.placed > 0.8
    assert score.false_percent < 2
    assert np.isfinite(score.abs_rel)


def test_no_checkpoint_beside_it():
    with pytest.raises(ConfigError, match="takes no checkpoint"):
        build_backbone(BackboneConfig(name="tiny", checkpoint="some.pth"))


def test_without_camera_info_it_believes_in_its_own_focal_length(views):
    pipeline = Pipeline(with_settings(PipelineConfig(), {"backbone.name": "tiny"}))
    results = [pipeline.push(replace(frame_of(views, 0, index), K=None)) for index in (0, 1)]
    assert results[-1].K[0, 0] > 0
    assert results[-1].state in TrackingState
