"""Depth errors against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from easi3r_lab.eval import depth


def test_one_scale_for_all_costs_nothing():
    truth = np.random.default_rng(0).uniform(1, 5, (3, 8, 9))
    score = depth.score(truth / 7, truth)
    assert score.abs_rel == pytest.approx(0, abs=1e-12) and score.delta_125 == 1
    assert score.scale == pytest.approx(7) and score.coverage == 1


def test_errors_with_a_given_scale():
    score = depth.score(np.array([1.0, 2.2, 6.0, 2.0]), np.array([1.0, 2.0, 4.0, 4.0]), scale=1.0)
    assert score.abs_rel == pytest.approx((0 + 0.1 + 0.5 + 0.5) / 4)
    assert score.delta_125 == 0.5


def test_unknown_pixels_are_left_out():
    estimated = np.array([np.nan, 1.0, -1.0, 2.0, np.inf])
    truth = np.array([5.0, 2.0, 3.0, 4.0, np.inf])
    score = depth.score(estimated, truth)
    assert score.abs_rel == 0 and score.scale == 2 and score.coverage == 0.5


@pytest.mark.parametrize(("estimated", "message"), [(np.ones(3), "one shape"), (np.full(4, np.nan), "no pixel")])
def test_what_cannot_be_compared_is_refused(estimated, message):
    with pytest.raises(ValueError, match=message):
        depth.score(estimated, np.ones(4))
