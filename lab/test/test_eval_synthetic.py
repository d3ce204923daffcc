"""The rendered evaluation: what it counts, what does not apply, and its commands."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from easi3r_lab.cli import main
from easi3r_lab.eval import synthetic_clips
from easi3r_lab.eval.synthetic_clips import ClipSpec, evaluate, evaluate_baselines, render, rows
from easi3r_lab.training import held_out

from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.dust3r.generated import write_generated_checkpoint
from easi3r_ros.core.dust3r.network import NetworkConfig

SPEC = ClipSpec("tabletop", 3, frames=10, size=(160, 120))


@pytest.fixture(scope="module")
def clip():
    return render(SPEC)


@pytest.fixture(scope="module")
def frozen_clip():
    return render(replace(SPEC, frozen=True))


def test_movers_are_found_and_the_camera_is_followed(clip):
    score = evaluate(SPEC, clip, PipelineConfig())
    assert score.backbone == "classical"
    assert score.jm > 0.4
    assert score.false_percent < 5
    assert score.abs_rel < 0.2
    assert score.ate_percent < 5
    assert score.cues["geometry"].auc > 0.85


def test_frozen_movers_are_still_there_but_nothing_moves(frozen_clip):
    poses = [frame.view.world_from_part for frame in frozen_clip]
    assert all(np.array_equal(poses[0], pose) for pose in poses)
    assert any(frame.mask.any() for frame in frozen_clip)
    cameras = [frame.view.world_from_cam for frame in frozen_clip]
    assert not np.allclose(cameras[0], cameras[-1])
    score = evaluate(replace(SPEC, frozen=True), frozen_clip, PipelineConfig())
    assert math.isnan(score.jm)
    assert score.false_percent < 1


def test_baselines_are_scored_on_the_same_movers(clip):
    scores = evaluate_baselines(SPEC, clip)
    assert scores["nothing"].auc == pytest.approx(0.5)
    assert scores["chance"].auc == pytest.approx(0.5, abs=0.05)
    assert scores["frame difference"].auc > 0.7
    assert scores["Sampson error"].auc > 0.6


def test_best_threshold_finds_a_perfect_map():
    truth = np.zeros((3, 20, 20), bool)
    truth[:, 5:12, 5:12] = True
    values = truth * 0.8 + np.random.default_rng(0).uniform(0, 0.1, truth.shape)
    assert synthetic_clips._best_jm(values, truth) > 0.9
    assert synthetic_clips._best_jm(-values, truth) < 0.3


@pytest.fixture
def small_clips(monkeypatch):
    def small(*arguments, **named):
        return replace(ClipSpec(*arguments, **named), size=(96, 72))

    monkeypatch.setattr(synthetic_clips, "ClipSpec", small)


def test_settings_and_rate_reach_the_pipeline_and_the_clips(monkeypatch, capsys):
    seen = []

    def fake(presets, seeds, frames, configs, rate):
        seen.append((configs["classical"].motion.memory, configs["tiny"].motion.memory, rate))
        return iter(())

    monkeypatch.setattr(synthetic_clips, "rows", fake)
    with pytest.raises(SystemExit):
        main(["eval", "synthetic", "--checkpoint", "tiny", "--set", "motion.memory=0.25", "--rate", "6"])
    assert seen == [(0.25, 0.25, 6.0)]
    capsys.readouterr()
    slow = synthetic_clips.ClipSpec("static", 1, rate=6.0, frames=2, size=(32, 24))
    assert [frame.seconds for frame in render(slow)] == pytest.approx([0, 1 / 6])


def test_a_scene_without_movers_has_no_frozen_twin(small_clips):
    methods = list(rows(["static"], [4], 8, {"classical": PipelineConfig()}))
    assert [row.method for row in methods] == ["classical", "baselines"]
    assert methods[0].frozen_auc == {}
    assert math.isnan(methods[0].figures["jm"])


def test_command_prints_json(small_clips, capsys):
    few = ["--presets", "static", "--seeds", "5", "--frames", "10"]
    with pytest.raises(SystemExit) as end:
        main(["eval", "synthetic", "--json", *few])
    assert end.value.code in (0, None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["method"] for line in lines] == ["classical", "baselines"]
    assert lines[0]["figures"]["false_percent"] < 1
    assert lines[0]["figures"]["jm"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--presets", "moon"], "moon"),
        (["--seeds", "x"], "no whole number"),
        (["--checkpoint", "big.pth"], "no checkpoint 'big.pth'"),
        (["--checkpoint", "dust3r-512-dpt"], "easi3r weights get"),
        (["--no-classical"], "nothing to evaluate"),
        (["--set", "motion.memori=0"], "motion.memori"),
        (["--presets", " , "], "empty"),
    ],
)
def test_command_explains_what_it_cannot_do(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["eval", "synthetic", "--frames", "10", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_pairs_command(monkeypatch, capsys):
    monkeypatch.setattr(held_out, "SCENES", 6)
    held_out.held_out_pairs.cache_clear()
    with pytest.raises(SystemExit) as end:
        main(["eval", "pairs", "--long-side", "64", "--checkpoint", "tiny"])
    held_out.held_out_pairs.cache_clear()
    assert end.value.code in (0, None)
    table = capsys.readouterr().out
    assert table.count("| classical ") == table.count("| tiny ") == 2


def test_pairs_command_explains_a_bad_size(capsys):
    with pytest.raises(SystemExit) as end:
        main(["eval", "pairs", "--long-side", "50"])
    assert end.value.code == 2
    assert "multiple of 32" in capsys.readouterr().err


def test_attention_command_on_a_checkpoint(small_clips, tmp_path, capsys):
    config = NetworkConfig(32, 1, 2, 32, 2, 2, head="linear", image_size=(64, 48), patch_size=8)
    write_generated_checkpoint(config, tmp_path / "net.pth")
    arguments = ["--checkpoint", str(tmp_path / "net.pth"), "--presets", "walkers", "--seeds", "3", "--frames", "10"]
    with pytest.raises(SystemExit) as end:
        main(["eval", "attention", *arguments])
    assert end.value.code in (0, None)
    table = capsys.readouterr().out
    assert "product (eq. 9)" in table
    assert "frozen" in table
