"""The alignment benchmark's own streams, kept short; `easi3r bench align` runs the long ones."""

import numpy as np
import pytest

from easi3r_ros.eval import alignment_stream
from easi3r_ros.eval.alignment_stream import run_stream
from easi3r_ros.synthetic.pairs import PairNoise, iter_truths, pair_of_truths
from easi3r_ros.synthetic.presets import build_scene

SIZE = (64, 48)


def test_pairs_without_noise_are_the_truth_up_to_a_scale():
    a, b = list(iter_truths(build_scene("walkers", 0, 1.0), 2, SIZE, rate=2.0))
    pair = pair_of_truths(a, b, np.random.default_rng(0), PairNoise(relative=0.0))
    scale = pair.points_a[..., 2].numpy() / a.depth
    assert np.ptp(scale) < 1e-5 and 0.5 <= scale[0, 0] <= 2.0
    world_from_a, world_from_b = a.view.world_from_cam, b.view.world_from_cam
    in_b = (pair.points_b.numpy() / scale[0, 0]) @ world_from_a[:3, :3].T + world_from_a[:3, 3] - world_from_b[:3, 3]
    depth = (in_b @ world_from_b[:3, :3])[..., 2]
    assert np.allclose(depth[~b.mask], b.depth[~b.mask], rtol=1e-4)
    assert b.mask.any() and not np.allclose(depth[b.mask], b.depth[b.mask], rtol=1e-3), "movers contradict the camera"


@pytest.fixture
def short_walk(monkeypatch):
    monkeypatch.setattr(alignment_stream, "EARLY", range(5, 15))
    monkeypatch.setattr(alignment_stream, "LATE", 10)
    return lambda **options: alignment_stream.long_walk(**options)


def test_a_walk_loses_what_was_spoiled_recovers_it_and_is_as_good_as_offline(short_walk):
    walk = short_walk(frames=45, lost_every=15)
    row = walk.stream
    assert (walk.injected, row.lost, row.recovered) == (2, 2, 2)
    assert row.finite and row.degraded == 0
    assert walk.ate_percent < 0.1 < row.ate_percent < 1.0  # the lost frames hold a pose that is not theirs
    assert 0 < walk.offline_ate_percent < walk.ate_percent  # pixels are exact here: the best case of the offline one
    assert walk.early_ms > 0 and 0.5 < walk.late_ms / walk.early_ms < 2.0  # loose: 10 frames of a shared machine
    assert walk.memory_growth_mb < 20


def test_a_walk_too_short_to_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least 250 frames"):
        alignment_stream.long_walk(frames=100)


@pytest.mark.parametrize("masks, honest", [("perfect", False), ("empty", True)])
def test_missing_masks_are_noticed(masks, honest):
    truths = iter_truths(build_scene("patrol", 5, 3.0), 30, SIZE, rate=10.0)
    row = run_stream("patrol", truths, masks=masks)
    assert (row.lost + row.degraded > 10) == honest
    assert row.finite
