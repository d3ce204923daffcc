"""The long walk of the alignment benchmark, made short; and joining what was solved in pieces."""

import numpy as np
import pytest
from easi3r_lab.eval import alignment_walk
from easi3r_lab.eval.alignment_walk import joined
from scipy.spatial.transform import Rotation


def test_a_walk_loses_what_was_spoiled_recovers_it_and_is_as_good_as_offline(monkeypatch):
    monkeypatch.setattr(alignment_walk, "EARLY", range(5, 15))
    monkeypatch.setattr(alignment_walk, "LATE", 10)
    walk = alignment_walk.long_walk(frames=42, lost_every=15)
    row = walk.stream
    assert (walk.injected, row.lost, row.recovered) == (2, 2, 2)
    assert row.finite and row.degraded == 0
    assert walk.ate_percent < 0.1 < row.ate_percent < 1.0  # the lost frames hold a pose that is not theirs
    assert walk.ate_percent < 1.2 * walk.published.ate_percent < 2.0
    assert 0 < walk.globally.ate_percent < walk.ate_percent  # pixels are exact here: its best case
    assert walk.globally.seconds > 0 and walk.published.seconds > 0
    assert walk.early_ms > 0 and 0.5 < walk.late_ms / walk.early_ms < 2.0  # loose: 10 frames of a shared machine
    assert walk.memory_growth_mb < 20


def test_a_walk_too_short_to_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least 250 frames"):
        alignment_walk.long_walk(frames=100)


def test_pieces_are_joined_by_a_similarity():
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (9, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(0.3 * rng.normal(size=(9, 3))).as_matrix()
    poses[:, :3, 3] = np.cumsum(rng.normal(size=(9, 3)), axis=0)
    turn = Rotation.from_rotvec([0.4, -1.0, 0.2]).as_matrix()
    elsewhere = poses.copy()
    elsewhere[:, :3, :3] = turn @ poses[:, :3, :3]
    elsewhere[:, :3, 3] = 3.0 * poses[:, :3, 3] @ turn.T + [1.0, 2.0, -4.0]
    assert np.allclose(joined(poses[:4], elsewhere), poses, atol=1e-9)
