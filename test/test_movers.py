"""Depth of movers from the ground they stand on."""

import numpy as np

from easi3r_ros.core.clouds import standing_depth

H, W = 60, 80


def scene():
    """A floor that comes nearer towards the bottom of the image: depth 10 at the top row, 1 at the lowest."""
    depth = np.tile(np.linspace(10, 1, H, dtype=np.float32)[:, None], (1, W))
    return depth, np.full((H, W), 2.0, np.float32), np.zeros((H, W), bool)


def test_a_mover_gets_the_depth_of_the_ground_at_its_feet():
    depth, confidence, mask = scene()
    mask[10:40, 30:40] = True
    confidence[mask], depth[mask] = 1.0, 77.0  # what triangulation made of it
    filled, sure = standing_depth(depth, confidence, mask, 1.2)
    assert np.allclose(filled[mask], depth[42, 0]) and (sure[mask] == np.float32(1.2)).all()
    assert np.array_equal(filled[~mask], depth[~mask]) and np.array_equal(sure[~mask], confidence[~mask])


def test_two_movers_get_each_their_own():
    depth, confidence, mask = scene()
    mask[10:30, 5:15] = mask[10:50, 50:60] = True
    confidence[mask] = 1.0
    filled, _ = standing_depth(depth, confidence, mask, 1.2)
    assert filled[15, 10] > filled[15, 55] > 0


def test_measured_depth_is_kept():
    depth, confidence, mask = scene()
    mask[10:40, 30:40] = True
    depth[mask] = 3.3
    filled, _ = standing_depth(depth, confidence, mask, 1.2)
    assert np.array_equal(filled, depth)


def test_feet_out_of_sight_or_unknown_ground_change_nothing():
    depth, confidence, mask = scene()
    mask[10:H, 30:40] = True
    confidence[mask] = 1.0
    assert np.array_equal(standing_depth(depth, confidence, mask, 1.2)[1], confidence)
    mask[40:] = False
    nobody_knows = np.ones_like(confidence)
    assert np.array_equal(standing_depth(depth, nobody_knows, mask, 1.2)[1], nobody_knows)
    depth[:] = np.nan
    assert np.isnan(standing_depth(depth, confidence, mask, 1.2)[0]).all()
