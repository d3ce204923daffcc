"""DAVIS: the layout as distributed, what is missing in words, the measures by hand, and going on after a stop."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from easi3r_lab.cli import main
from easi3r_lab.eval import davis
from easi3r_lab.eval.davis import DataSetError, ResultFolder, find_sequences, mean_score, score_sequence
from easi3r_lab.eval.scores import sequence_statistics

from easi3r_ros.core.config import PipelineConfig, with_settings

SIZE = (96, 64)
FRAMES = 9


def write_tree(root, names=("moving", "other"), instances=False):
    """A textured square slides over a textured wall that stands still."""
    rng = np.random.default_rng(1)
    wall, square = (rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(2))
    wall, square = cv2.GaussianBlur(wall, (0, 0), 1.5), cv2.GaussianBlur(square, (0, 0), 1.5)
    for name in names:
        images, annotations = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for i in range(FRAMES):
            mask = np.zeros((64, 96), np.uint8)
            mask[20:44, 10 + 3 * i : 40 + 3 * i] = 1 if instances else 255
            if instances:
                mask[30:44, 10 + 3 * i : 40 + 3 * i] = 2
            frame = np.where(mask[..., None] > 0, np.roll(square, 3 * i, axis=1), wall)
            cv2.imwrite(str(images / f"{i:05d}.jpg"), frame)
            cv2.imwrite(str(annotations / f"{i:05d}.png"), mask)
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "DAVIS")


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["eval", *map(str, arguments)])
    return end.value.code


def test_statistics_are_those_of_the_benchmark():
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    statistics = sequence_statistics(values)
    assert statistics.mean == pytest.approx(0.55)
    assert statistics.recall == pytest.approx(4 / 8)  # 0.5 itself does not count
    # borders at 1, 2.75, 4.5, 6.25, 8, rounded: the quarters are values 1-3, 3-5, 5-6, 6-8
    assert statistics.decay == pytest.approx(0.8 - 0.3)
    assert sequence_statistics(values[::-1]).decay == pytest.approx(-statistics.decay, abs=0.06)


def test_sequences_are_those_of_the_list(tree):
    assert [s.name for s in find_sequences(tree, "davis16")] == ["moving", "other"]
    lists = tree / "ImageSets/480p"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("/JPEGImages/480p/other/00000.jpg /Annotations/480p/other/00000.png\n")
    assert [s.name for s in find_sequences(tree, "davis16")] == ["other"]
    assert [s.name for s in find_sequences(tree, "davis-all")] == ["moving", "other"]
    (tree / "ImageSets/2017").mkdir()
    (tree / "ImageSets/2017/val.txt").write_text("moving\n")
    assert [s.name for s in find_sequences(tree, "davis17")] == ["moving"]


def test_instances_together_are_the_foreground(tmp_path):
    (sequence,) = find_sequences(write_tree(tmp_path, ("one",), instances=True), "davis17")
    _, truth = next(sequence.frames())
    assert truth.sum() == 24 * 30


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "Annotations").rename(root / "elsewhere"), "Annotations/480p is missing"),
        (lambda root: (root / "Annotations/480p/other/00003.png").unlink(), "'other': 9 images and 8 annotations"),
        (lambda root: (root / "Annotations/480p/other").rename(root / "x"), "'other'"),
        (lambda root: (root / "JPEGImages/480p/moving/00001.jpg").write_bytes(b"half"), "00001.jpg is no image"),
        (lambda root: [p.unlink() for p in root.glob("*/480p/moving/0000[3-8]*")], "3 frames"),
    ],
)
def test_what_is_missing_is_said(tree, damage, words, capsys):
    damage(tree)
    assert run("davis16", tree) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_folder_too_high_is_recognised(tree):
    with pytest.raises(DataSetError, match=f"did you mean {tree}"):
        find_sequences(tree.parent, "davis16")
    with pytest.raises(DataSetError, match="there is no folder"):
        find_sequences(tree / "nowhere", "davis16")


def test_the_moving_square_is_scored(tree):
    sequence = find_sequences(tree, "davis16")[0]
    ticks = []
    score = score_sequence(sequence, PipelineConfig(), lambda: ticks.append(1))
    assert len(ticks) == FRAMES
    assert score.settled_jm > 0.4
    assert score.recall > 0.7
    assert score.lost_percent == 0
    assert sum(score.states.values()) == pytest.approx(1)
    other = replace(score, settled_jm=score.settled_jm - 0.2, region=replace(score.region, mean=0.1))
    mean = mean_score([score, other])
    assert mean.settled_jm == pytest.approx(score.settled_jm - 0.1)
    assert mean.region.mean == pytest.approx((score.region.mean + 0.1) / 2)


def test_it_goes_on_where_it_was_stopped(tree, tmp_path, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(davis, "score_sequence", lambda s, *rest: done.append(s.name) or score_sequence(s, *rest))
    out = tmp_path / "out"
    config = PipelineConfig()
    with_classical = with_settings(config, {"backbone.name": "classical"})
    ResultFolder(out, with_classical).put(score_sequence(find_sequences(tree, "davis16")[0], config, lambda: None))
    capsys.readouterr()
    assert run("davis16", tree, "--out", out, "--json", "--backbone", "classical") in (0, None)
    assert done == ["other"] and (out / "davis16.png").is_file()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["moving", "other", "mean"]
    assert rows[2]["region"]["mean"] == pytest.approx(
        (rows[0]["region"]["mean"] + rows[1]["region"]["mean"]) / 2, abs=1e-3
    )
    assert run("davis-all", tree, "--out", out, "--set", "motion.memory=0.5") in (0, None)  # other settings: anew
    assert done == ["other", "moving", "other"]
    text = capsys.readouterr().out
    assert "J mean" in text and "| Easi3R monst3r | 53   | 63.4 |" in text  # the paper's
