"""Mask measures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from easi3r_lab.eval import masks


def square(x: int, y: int, side: int = 20, shape=(60, 80)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


EMPTY = np.zeros((60, 80), dtype=bool)


def test_region_similarity():
    assert masks.region_similarity(square(10, 10), square(10, 10)) == 1
    assert masks.region_similarity(square(10, 10), square(20, 10)) == pytest.approx(10 / 30)
    assert masks.region_similarity(square(10, 10), square(50, 30)) == 0


@pytest.mark.parametrize("measure", [masks.region_similarity, masks.boundary_accuracy])
def test_empty_masks(measure):
    assert measure(EMPTY, EMPTY) == 1
    assert measure(EMPTY, square(10, 10)) == 0
    assert measure(square(10, 10), EMPTY) == 0


def test_boundary_accuracy_tolerates_less_than_a_percent_of_the_diagonal():
    """At 60 x 80 the tolerance is ceil(0.008 * 100) = 1 pixel."""
    truth = square(10, 10)
    assert masks.boundary_accuracy(truth, truth) == 1
    assert masks.boundary_accuracy(square(11, 10), truth) == 1
    shifted = masks.boundary_accuracy(square(13, 10), truth)
    # The two sides are missed (but for a pixel near each corner), most of top and bottom is found.
    assert 0.35 < shifted < 0.6
    assert masks.boundary_accuracy(square(50, 30, 5), truth) == 0


def test_boundary_of_a_mask_that_fills_the_image_is_none():
    assert masks.boundary_accuracy(~EMPTY, EMPTY) == 1


def test_sequence_score():
    truth = np.stack([square(10, 10)] * 4)
    predicted = np.stack([square(10, 10), square(20, 10), square(10, 10), EMPTY])
    score = masks.score(predicted, truth)
    assert score.jm == pytest.approx((1 + 1 / 3 + 1 + 0) / 4)
    assert score.jr == 0.5
    assert score.fr == 0.5 and 0.5 < score.fm < 0.75


@pytest.mark.parametrize("bad", [EMPTY[1:], EMPTY.astype(np.uint8)])
def test_what_cannot_be_compared_is_refused(bad):
    with pytest.raises(ValueError, match="bool masks of one shape"):
        masks.region_similarity(bad, EMPTY)
