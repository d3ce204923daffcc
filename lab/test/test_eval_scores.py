"""Masks, trajectories and depth against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from easi3r_lab.eval.scores import (
    boundary_accuracy,
    path_length,
    region_similarity,
    score_depth,
    score_masks,
    score_trajectory,
)
from scipy.spatial.transform import Rotation


def square(x: int, y: int, side: int = 20, shape=(60, 80)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


EMPTY = np.zeros((60, 80), dtype=bool)


def test_region_similarity():
    assert region_similarity(square(10, 10), square(10, 10)) == 1
    assert region_similarity(square(10, 10), square(20, 10)) == pytest.approx(10 / 30)
    assert region_similarity(square(10, 10), square(50, 30)) == 0


@pytest.mark.parametrize("measure", [region_similarity, boundary_accuracy])
def test_empty_masks(measure):
    assert measure(EMPTY, EMPTY) == 1
    assert measure(EMPTY, square(10, 10)) == 0
    assert measure(square(10, 10), EMPTY) == 0


def test_boundary_accuracy_tolerates_less_than_a_percent_of_the_diagonal():
    """At 60 x 80 the tolerance is ceil(0.008 * 100) = 1 pixel."""
    truth = square(10, 10)
    assert boundary_accuracy(truth, truth) == 1
    assert boundary_accuracy(square(11, 10), truth) == 1
    shifted = boundary_accuracy(square(13, 10), truth)
    # The two sides are missed (but for a pixel near each corner), most of top and bottom is found.
    assert 0.35 < shifted < 0.6
    assert boundary_accuracy(square(50, 30, 5), truth) == 0


def test_boundary_of_a_mask_that_fills_the_image_is_none():
    assert boundary_accuracy(~EMPTY, EMPTY) == 1


def test_sequence_score():
    truth = np.stack([square(10, 10)] * 4)
    predicted = np.stack([square(10, 10), square(20, 10), square(10, 10), EMPTY])
    score = score_masks(predicted, truth)
    assert score.jm == pytest.approx((1 + 1 / 3 + 1 + 0) / 4)
    assert score.jr == 0.5
    assert score.fr == 0.5 and 0.5 < score.fm < 0.75


@pytest.mark.parametrize("bad", [EMPTY[1:], EMPTY.astype(np.uint8)])
def test_masks_that_cannot_be_compared_are_refused(bad):
    with pytest.raises(ValueError, match="bool masks of one shape"):
        region_similarity(bad, EMPTY)


def helix(count: int = 40) -> np.ndarray:
    t = np.linspace(0, 4, count)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("zyx", np.stack([t, 0.3 * t, np.sin(t)], 1)).as_matrix()
    poses[:, :3, 3] = np.stack([np.cos(t), np.sin(t), 0.2 * t], axis=1)
    return poses


def moved(poses: np.ndarray, scale: float) -> np.ndarray:
    result = poses.copy()
    rotation = Rotation.from_rotvec([0.4, -1.0, 0.3]).as_matrix()
    result[:, :3, :3] = rotation @ poses[:, :3, :3]
    result[:, :3, 3] = scale * poses[:, :3, 3] @ rotation.T + [3.0, -1.0, 2.0]
    return result


def test_another_world_and_scale_of_a_trajectory_cost_nothing():
    truth = helix()
    score = score_trajectory(moved(truth, 0.25), truth)
    assert score.ate < 1e-9 and score.rpe_translation < 1e-9 and score.rpe_rotation < 1e-4
    assert score.scale == pytest.approx(4)
    np.testing.assert_allclose(score.aligned, truth, atol=1e-9)


def test_noise_is_what_remains():
    truth, rng = helix(400), np.random.default_rng(0)
    estimated = truth.copy()
    estimated[:, :3, 3] += rng.normal(0, 0.01, (400, 3))
    score = score_trajectory(moved(estimated, 2.0), truth)
    assert score.ate == pytest.approx(0.01 * np.sqrt(3), rel=0.1)
    assert score.rpe_translation == pytest.approx(0.01 * np.sqrt(6), rel=0.1)
    assert score.ate_percent_of_path == pytest.approx(100 * score.ate / path_length(truth))


def test_rotation_error_in_degrees():
    truth = helix()
    estimated = truth.copy()
    estimated[:, :3, :3] = (
        truth[:, :3, :3] @ Rotation.from_rotvec(np.outer(np.arange(40) % 2, [np.radians(2), 0, 0])).as_matrix()
    )
    assert score_trajectory(estimated, truth).rpe_rotation == pytest.approx(2.0, abs=1e-6)


def test_path_length():
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1, 0, 3], poses[2, :2, 3] = 3, (3, 4)
    assert path_length(poses) == 7


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[1:], "two trajectories"),
        (lambda p: np.where(np.arange(40)[:, None, None] == 7, np.nan, p), "not finite"),
        (lambda p: np.tile(np.eye(4), (40, 1, 1)), "stood still"),
    ],
)
def test_trajectories_that_cannot_be_compared_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        score_trajectory(spoil(helix()), helix())


def test_one_scale_of_depth_for_all_costs_nothing():
    truth = np.random.default_rng(0).uniform(1, 5, (3, 8, 9))
    score = score_depth(truth / 7, truth)
    assert score.abs_rel == pytest.approx(0, abs=1e-12) and score.delta_125 == 1
    assert score.scale == pytest.approx(7) and score.coverage == 1


def test_errors_with_a_given_scale():
    score = score_depth(np.array([1.0, 2.2, 6.0, 2.0]), np.array([1.0, 2.0, 4.0, 4.0]), scale=1.0)
    assert score.abs_rel == pytest.approx((0 + 0.1 + 0.5 + 0.5) / 4)
    assert score.delta_125 == 0.5


def test_unknown_pixels_are_left_out():
    estimated = np.array([np.nan, 1.0, -1.0, 2.0, np.inf])
    truth = np.array([5.0, 2.0, 3.0, 4.0, np.inf])
    score = score_depth(estimated, truth)
    assert score.abs_rel == 0 and score.scale == 2 and score.coverage == 0.5


@pytest.mark.parametrize(("estimated", "message"), [(np.ones(3), "one shape"), (np.full(4, np.nan), "no pixel")])
def test_depth_that_cannot_be_compared_is_refused(estimated, message):
    with pytest.raises(ValueError, match=message):
        score_depth(estimated, np.ones(4))
