"""The alignment benchmark's own streams, kept short; `easi3r-lab bench align` runs the long ones."""

import numpy as np
import pytest
from easi3r_lab.eval.alignment_stream import run_stream
from easi3r_lab.synthetic.presets import build_scene
from easi3r_lab.synthetic.true_pairs import PairNoise, iter_truths, pair_of_truths

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


@pytest.mark.parametrize("masks, honest", [("perfect", False), ("empty", True)])
def test_missing_masks_are_noticed(masks, honest):
    truths = iter_truths(build_scene("patrol", 5, 3.0), 30, SIZE, rate=10.0)
    row = run_stream("patrol", truths, masks=masks)
    assert (row.lost + row.degraded > 10) == honest
    assert row.finite
