"""Training: exact truth of the pairs, the same shards every time, learning, resuming, and the exported checkpoint."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic.training_views import training_views
from easi3r_lab.training import held_out
from easi3r_lab.training.loader import Shards, batches, mixed
from easi3r_lab.training.pairs import mirrored, training_pairs
from easi3r_lab.training.plan import PlanError, Stage, TrainingPlan
from easi3r_lab.training.trainer import STATE, Trainer, export, training_device

from easi3r_ros.core.dust3r.checkpoints import load_network
from easi3r_ros.core.dust3r.network import Dust3rNetwork, NetworkConfig

SMALL = NetworkConfig(
    encoder_width=32,
    encoder_depth=1,
    encoder_heads=2,
    decoder_width=32,
    decoder_depth=2,
    decoder_heads=2,
    head="linear",
    image_size=(64, 48),
    patch_size=8,
)
CPU = torch.device("cpu")
PLAN = TrainingPlan(
    minutes=0.02,
    network=SMALL,
    stages=(Stage(1.0, 32, 4),),
    scenes_per_shard=4,
    views_per_scene=2,
    warmup_steps=1,
    mixed_batches=1,
)


@pytest.fixture(scope="module", params=["as rendered", "mirrored"])
def pairs(request):
    rendered = training_pairs(training_views(7, 6, 2, (64, 48)), [(0, 1)], patch=8)
    return mirrored(rendered, patch=8) if request.param == "mirrored" else rendered


@pytest.fixture
def few_held_out_scenes(monkeypatch):
    monkeypatch.setattr(held_out, "SCENES", 6)
    held_out.held_out_pairs.cache_clear()
    yield
    held_out.held_out_pairs.cache_clear()


def test_points_in_the_other_camera_are_the_same_points(pairs):
    b_from_a = torch.linalg.inv(pairs.a_from_b)
    carried = torch.einsum("bij,bhwj->bhwi", b_from_a[:, :3, :3], pairs.a.points) + b_from_a[:, None, None, :3, 3]
    seen = pairs.a.points.isfinite().all(-1)
    torch.testing.assert_close(carried[seen], pairs.a.points_in_other[seen], rtol=1e-3, atol=1e-3)


def test_matched_tokens_show_the_same_surface(pairs):
    """Where nothing moves, the point under a token is near the points of the token that it is matched with."""
    still = ~pairs.moving
    centre = pairs.a.points_in_other[still][:, 4::8, 4::8].flatten(1, 2)  # (B, N, 3) in camera b
    other = pairs.b.points[still][:, 4::8, 4::8].flatten(1, 2)
    best = pairs.a.indices[still].gather(-1, pairs.a.weights[still].argmax(-1, keepdim=True))
    matched = other.gather(1, best.expand(-1, -1, 3))
    visible = pairs.a.visible[still] & matched.isfinite().all(-1)
    distance = (matched - centre).norm(dim=-1)[visible] / centre.norm(dim=-1)[visible]
    assert len(distance) > 20
    assert distance.median() < 0.1


def test_points_are_where_their_camera_sees_them(pairs):
    """Every point projects onto its own pixel."""
    height, width = pairs.images[0].shape[1:3]
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for view in (pairs.a, pairs.b):
        projected = torch.einsum("bij,bhwj->bhwi", pairs.K, view.points)
        pixels = projected[..., :2] / projected[..., 2:]
        seen = view.points.isfinite().all(-1)
        torch.testing.assert_close(
            pixels[seen], torch.stack((u, v), -1).expand_as(pixels)[seen].float(), atol=1e-2, rtol=0
        )


def test_a_mirrored_mirror_image_is_the_pair_itself(pairs):
    there = mirrored(pairs, patch=8)
    assert not torch.equal(there.a.indices, pairs.a.indices)
    back = mirrored(there, patch=8)
    torch.testing.assert_close(back.images, pairs.images)
    torch.testing.assert_close(back.a_from_b, pairs.a_from_b)
    for item in fields(back.a):
        torch.testing.assert_close(getattr(back.b, item.name), getattr(pairs.b, item.name), equal_nan=True)


def test_shards_are_the_same_every_time():
    def first(shard):
        return next(iter(Shards(PLAN, PLAN.stages[0], shard, CPU)))[1]

    torch.testing.assert_close(first(3).images, first(3).images)
    assert not torch.equal(first(3).images[0], first(4).images[0]) or first(3).K.ne(first(4).K).any()


def test_worker_processes_render_the_same_shards():
    number, here = next(batches(PLAN, PLAN.stages[0], 5, CPU, workers=0))
    other_number, there = next(batches(PLAN, PLAN.stages[0], 5, CPU, workers=1))
    assert number == other_number == 5
    torch.testing.assert_close(here.images, there.images)


def test_batches_of_a_shard_do_not_follow_each_other():
    """Nothing is lost or doubled, and neighbours in the stream are far apart."""
    shards = [number // 18 for number in mixed(iter(range(360)), 54, seed=1)]
    assert sorted(shards) == [number // 18 for number in range(360)]
    alike = sum(a == b for a, b in zip(shards[:300], shards[1:301], strict=True))
    assert alike < 300 / 3
    assert list(mixed(iter(range(9)), 3, 1)) == list(mixed(iter(range(9)), 3, 1)) != list(range(9))


def test_a_few_steps_on_one_batch_lower_every_loss(tmp_path):
    trainer = Trainer(replace(PLAN, minutes=60.0), tmp_path, CPU, workers=0)
    _, batch = next(batches(PLAN, PLAN.stages[0], 0, CPU, workers=0))
    curve = [trainer._step(batch) for _ in range(40)]
    for name in ("points", "matching"):
        assert curve[-1][name] < 0.8 * curve[0][name], name


@pytest.mark.parametrize("compiled", [True, False])
def test_only_who_asks_for_it_waits_for_the_compiler(tmp_path, monkeypatch, compiled):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, disable=False, **options: asked.append(disable) or function)
    Trainer(PLAN, tmp_path, CPU, workers=0, compiled=compiled)
    assert asked == [not compiled] * 2


def test_training_goes_on_where_it_was(tmp_path, few_held_out_scenes):
    rows = []
    Trainer(PLAN, tmp_path, CPU, workers=0).run(rows.append)
    assert rows[-1]["step"] > 0
    again = Trainer(replace(PLAN, minutes=0.03), tmp_path, CPU, workers=0)
    assert again.progress.step == rows[-1]["step"]
    state = torch.load(tmp_path / STATE, weights_only=True)
    for name, tensor in again.network.state_dict().items():
        torch.testing.assert_close(tensor, state["network"][name], msg=name)
    again.run(rows.append)
    assert rows[-1]["step"] > again.progress.history[0]["step"]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == rows
    assert {"abs_rel", "rotation", "hit"} <= logged[-1].keys()


def test_another_network_is_refused(tmp_path, few_held_out_scenes):
    Trainer(PLAN, tmp_path, CPU, workers=0).run(lambda row: None)
    other = replace(PLAN, network=replace(SMALL, encoder_depth=2))
    with pytest.raises(PlanError, match="another network"):
        Trainer(other, tmp_path, CPU, workers=0)


@pytest.mark.parametrize(
    "change",
    [
        {"minutes": 0.0},
        {"stages": (Stage(0.5, 64, 4),)},
        {"stages": (Stage(1.0, 60, 4),)},
        {"stages": ()},
        {"mixed_batches": 0},
    ],
)
def test_a_plan_that_cannot_work_is_refused(change):
    with pytest.raises(PlanError):
        replace(PLAN, **change)


def test_learning_rate_rises_holds_and_falls():
    plan = replace(PLAN, warmup_steps=10, decay_share=0.5)
    shares = [plan.rate_share(progress, 100) for progress in (0.0, 0.4, 0.75, 1.0)]
    assert shares == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert plan.rate_share(0.0, 4) == pytest.approx(0.5)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(PlanError, match="not available"):
        training_device("nonsense")


def test_exported_network_loads_as_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    network = Dust3rNetwork(SMALL)
    weights = export(network, tmp_path / "tiny")
    loaded, _ = load_network(weights.parent)
    assert loaded.config == SMALL
    for name, tensor in network.state_dict().items():
        np.testing.assert_allclose(loaded.state_dict()[name].numpy(), tensor.detach().numpy(), rtol=1e-3, atol=1e-6)


def test_a_perfect_answer_scores_perfectly(pairs):
    depth = pairs.a.points[..., 2]
    error, inliers = held_out._depth_error(3.0 * depth, depth)
    assert error.max() < 1e-5
    assert inliers.min() == 1.0
    seen = pairs.b.points.isfinite().all(-1).float()
    own, in_a = pairs.b.points.nan_to_num(0, 0, 0), pairs.b.points_in_other.nan_to_num(0, 0, 0)
    assert held_out._rotation_error(own, in_a, seen, pairs.a_from_b).max() < 0.1
