"""Trajectory errors against transforms and noise that are known."""

from __future__ import annotations

import numpy as np
import pytest
from easi3r_lab.eval import trajectory
from scipy.spatial.transform import Rotation


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


def test_another_world_and_scale_cost_nothing():
    truth = helix()
    score = trajectory.score(moved(truth, 0.25), truth)
    assert score.ate < 1e-9 and score.rpe_translation < 1e-9 and score.rpe_rotation < 1e-4
    assert score.scale == pytest.approx(4)
    np.testing.assert_allclose(score.aligned, truth, atol=1e-9)


def test_noise_is_what_remains():
    truth, rng = helix(400), np.random.default_rng(0)
    estimated = truth.copy()
    estimated[:, :3, 3] += rng.normal(0, 0.01, (400, 3))
    score = trajectory.score(moved(estimated, 2.0), truth)
    assert score.ate == pytest.approx(0.01 * np.sqrt(3), rel=0.1)
    assert score.rpe_translation == pytest.approx(0.01 * np.sqrt(6), rel=0.1)
    assert score.ate_percent_of_path == pytest.approx(100 * score.ate / trajectory.path_length(truth))


def test_rotation_error_in_degrees():
    truth = helix()
    estimated = truth.copy()
    estimated[:, :3, :3] = (
        truth[:, :3, :3] @ Rotation.from_rotvec(np.outer(np.arange(40) % 2, [np.radians(2), 0, 0])).as_matrix()
    )
    assert trajectory.score(estimated, truth).rpe_rotation == pytest.approx(2.0, abs=1e-6)


def test_path_length():
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1, 0, 3], poses[2, :2, 3] = 3, (3, 4)
    assert trajectory.path_length(poses) == 7


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[1:], "two trajectories"),
        (lambda p: np.where(np.arange(40)[:, None, None] == 7, np.nan, p), "not finite"),
        (lambda p: np.tile(np.eye(4), (40, 1, 1)), "stood still"),
    ],
)
def test_what_cannot_be_compared_is_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        trajectory.score(spoil(helix()), helix())
