"""Figures on recordings by hand, and the commands on small trees: tables, JSON, the paper beside, going on."""

import json
from types import SimpleNamespace

import helpers_datasets as trees
import numpy as np
import pytest
from easi3r_lab.cli import main
from easi3r_lab.datasets.rendered_sets import find_sintel
from easi3r_lab.eval import recordings
from easi3r_lab.eval.recordings import RecordingScore, mean_recording, scale_and_shift, score_recording

from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.types import TrackingState


@pytest.fixture(scope="module")
def still():
    return trees.clip(12)


@pytest.fixture
def sintel(still, tmp_path):
    trees.write_sintel(tmp_path / "sintel", still)
    return tmp_path / "sintel"


class Oracle:
    """Answers with the truth in another world: turned, moved, `SCALE` times smaller; depth of the right half only."""

    SCALE = 4.0

    def __init__(self, frames):
        self._frames = frames

    def __call__(self, config):
        return self

    def push(self, frame):
        true = self._frames[frame.index]
        pose = true.view.world_from_cam.copy()
        pose[:3, 3] = (pose[:3, 3] + (1, 2, 3)) / self.SCALE
        depth = np.where(np.isfinite(true.depth), true.depth, np.nan) / self.SCALE
        confidence = np.full(depth.shape, 3.0)
        confidence[:, : depth.shape[1] // 2] = 1.0
        lost = frame.index == 2
        return SimpleNamespace(
            frame=frame,
            world_from_cam=pose,
            depth=depth,
            confidence=confidence,
            K=true.view.K,
            state=TrackingState.LOST if lost else TrackingState.TRACKING,
            world=0 if frame.index < 10 else 1,
            latency_ms={"all": 7.0},
        )


def test_a_perfect_answer_up_to_scale_is_perfect(still, sintel, monkeypatch):
    monkeypatch.setattr(recordings, "Pipeline", Oracle(still))
    score = score_recording(find_sintel(sintel)[0], PipelineConfig(), lambda: None)
    assert score.frames == 12
    assert score.placed_percent == pytest.approx(100 * 9 / 12)  # one lost, two in another world
    assert score.lost_percent == pytest.approx(100 / 12)
    assert score.ate == pytest.approx(0, abs=1e-6) and score.rpe_degrees == pytest.approx(0, abs=1e-4)
    assert score.abs_rel == pytest.approx(0, abs=1e-3) and score.delta == 1 and score.delta_affine == 1
    assert score.depth_coverage == pytest.approx(0.5, abs=0.05)
    assert score.accuracy == pytest.approx(0, abs=2e-3)
    assert score.completeness > 0.05  # the left half is not there
    assert score.ms == 7.0 and len(score.truth_path) == len(score.estimated_path) == 9


def test_scale_and_shift_is_not_moved_by_a_minority():
    rng = np.random.default_rng(0)
    estimate = rng.uniform(1, 5, 500)
    truth = 2.5 * estimate + 0.7
    truth[:100] = 60.0
    assert scale_and_shift(estimate, truth) == pytest.approx((2.5, 0.7), abs=1e-3)


def test_a_sequence_without_truth_does_not_count():
    scores = [RecordingScore("a", 10, ate=1.0), RecordingScore("b", 20, ate=3.0, abs_rel=0.1), RecordingScore("c", 5)]
    mean = mean_recording(scores)
    assert mean.ate == 2.0 and mean.abs_rel == 0.1 and mean.frames == 35 and np.isnan(mean.accuracy)


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["eval", *map(str, arguments)])
    return end.value.code


def test_a_recording_is_evaluated_and_goes_on_where_it_was(sintel, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert run("sintel", sintel, "--out", out, "--json") in (0, None)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["alley_1", "mean"]
    assert rows[0]["ate_percent"] < 12 and rows[0]["abs_rel"] < 0.35 and rows[0]["placed_percent"] > 60
    assert (out / "sintel.png").stat().st_size > 1000
    monkeypatch.setattr(recordings, "score_recording", None)  # what is kept is not computed again
    assert run("sintel", sintel, "--out", out) in (0, None)
    text = capsys.readouterr().out
    assert "alley_1" in text and "| Easi3R monst3r | 0.11 " in text and "| Easi3R monst3r | 0.377 " in text


def test_masks_are_evaluated_where_they_are_annotated(tmp_path, capsys):
    trees.write_fbms(tmp_path / "fbms", trees.clip(20, "walkers"))
    picture = tmp_path / "masks.png"
    assert run("fbms", tmp_path / "fbms", "--json", "--picture", picture, "--backbone", "classical") in (0, None)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["data"] == "fbms" and rows[0]["settled_jm"] > 0.4 and rows[0]["recall"] > 0.4
    assert picture.stat().st_size > 1000


def test_options_are_checked(sintel, capsys):
    assert run("sintel", sintel, "--only", "alley_1,nowhere") == 2
    assert "there is no sequence 'nowhere'" in " ".join(capsys.readouterr().err.split())
    assert run("sintel", sintel, "--backbone", "dust3r") == 2
    assert run("sintel", sintel, "--backbone", "orb") == 2
