"""Filling and trusting depth; the range of depth that a static world can have."""

import numpy as np
import pytest

from easi3r_ros.core.classical import dense_inverse_depth, fill, static_weight
from easi3r_ros.core.two_view.estimate import hemisphere
from easi3r_ros.core.two_view.rigid import depth_violation, plausible_range

SHAPE = (60, 80)


def test_gaps_take_the_value_around_them():
    values = np.full(SHAPE, 2.0, np.float32)
    values[:, 40:] = 1.0
    weight = np.ones(SHAPE, np.float32)
    gap = (slice(20, 30), slice(10, 22))
    values[gap], weight[gap] = 50.0, 0.0
    filled = fill(values, weight)
    np.testing.assert_allclose(filled[gap], 2.0, atol=0.1)
    np.testing.assert_allclose(filled[:, 60:], 1.0, atol=0.05)


def test_good_depth_is_kept_and_bad_depth_is_replaced():
    inverse_depth = np.full(SHAPE, 0.5, np.float32)
    weight = np.full(SHAPE, 1e6, np.float32)
    inverse_depth[30, 40], weight[30, 40] = 5.0, 1e-3  # noise
    inverse_depth[10, 10] = 0.8  # a small near thing, well seen
    depth = dense_inverse_depth(inverse_depth, weight, unit=0.5)
    assert depth.values[30, 40] == pytest.approx(1.0, rel=0.05)
    assert depth.values[10, 10] == pytest.approx(1.6, rel=0.02)
    assert depth.confidence[30, 40] < 1.05 < 5 < depth.confidence[10, 10]


def test_confidence_is_the_one_promised():
    """1.2: a depth known to 25 %; 3: one known to 2.5 %."""
    deviation = np.array([[0.25, 0.025]], np.float32).repeat(8, 0).repeat(4, 1)
    depth = dense_inverse_depth(np.ones_like(deviation), deviation**-2, unit=1.0)
    np.testing.assert_allclose(depth.confidence[4, [0, -1]], [1.2, 3.0], rtol=0.02)


def test_depth_is_positive_and_finite_whatever_was_measured():
    rng = np.random.default_rng(0)
    depth = dense_inverse_depth(rng.normal(0, 1e4, SHAPE).astype(np.float32), np.ones(SHAPE, np.float32), unit=0.01)
    assert np.isfinite(depth.values).all() and depth.values.min() > 0


def test_what_is_off_the_epipolar_line_or_moves_has_no_weight():
    information, epipolar = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    epipolar[:, 40:] = 30.0
    moving = np.zeros(SHAPE, bool)
    moving[:30] = True
    weight = static_weight(information, epipolar, moving)
    assert weight[:30].max() == 0
    assert weight[40, 60] < 1e-3 < 1 == weight[40, 10]


def test_depth_beyond_the_world_and_behind_infinity_is_implausible():
    rng = np.random.default_rng(0)
    inverse_depth = rng.uniform(0.2, 0.6, SHAPE).astype(np.float32)
    inverse_depth[:3] = -0.3  # a few movers
    low, high = plausible_range(inverse_depth, np.ones(SHAPE, np.float32))
    assert 0 < low < 0.2 and 0.6 < high < 2
    violation = depth_violation(np.array([-0.3, 0.4, 5.0]), np.full(3, 100.0), low, high)
    assert violation[0] > 3 and violation[1] == 0 and violation[2] > 30


def test_without_weight_every_depth_is_plausible():
    assert plausible_range(np.ones(SHAPE), np.zeros(SHAPE)) == (-np.inf, np.inf)


def test_directions_cover_the_hemisphere():
    directions = hemisphere(64)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    probes = np.random.default_rng(0).normal(size=(500, 3))
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    nearest = np.abs(probes @ directions.T).max(axis=1)  # either sign is the same epipolar geometry
    assert np.degrees(np.arccos(nearest.min())) < 15
