"""Borders from colours: what smears is taken back, what is missing is filled, and nothing comes from colours alone."""

import numpy as np
import pytest

from easi3r_ros.core.motion.border import BINS, NOT_THERE, Colours, agreed, colour_bins, follow_colours

SHAPE = (60, 80)  # cells
TRUE = (slice(20, 44), slice(26, 54))
BACKGROUND, MOVER = (90, 120, 200), (200, 60, 40)


def picture(mover=MOVER, background=BACKGROUND, noise=6):
    rng = np.random.default_rng(0)
    image = np.empty((2 * SHAPE[0], 2 * SHAPE[1], 3))
    image[:] = background
    image[40:88, 52:108] = mover
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def odds(rows=TRUE[0], columns=TRUE[1], value=3.0):
    values = np.full(SHAPE, -3.0, np.float32)
    values[rows, columns] = value
    return values


def truth():
    mask = np.zeros(SHAPE, bool)
    mask[TRUE] = True
    return mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_halo_in_smooth_background_is_taken_back():
    smeared = odds(slice(16, 48), slice(22, 58))
    assert iou(smeared > 0, truth()) < 0.7
    found, _ = follow_colours(picture(), smeared, Colours.none())
    assert iou(found > 0, truth()) > 0.97


def test_a_part_that_the_flow_lost_is_filled():
    torn = odds(value=-1.0)
    torn[20:38, 26:54] = 3.0
    found, _ = follow_colours(picture(), torn, Colours.none())
    assert iou(found > 0, truth()) > 0.97


def test_colours_that_say_nothing_leave_the_odds_alone():
    found, _ = follow_colours(picture(BACKGROUND), odds(), Colours.none())
    assert iou(found > 0, truth()) > 0.9


def test_nothing_comes_from_colours_alone():
    _, colours = follow_colours(picture(), odds(), Colours.none())
    nothing = odds(value=-3.0)
    found, kept = follow_colours(picture(), nothing, colours)
    assert found is nothing
    assert kept is colours


def test_like_colours_far_away_do_not_begin_to_move():
    image = picture()
    image[4:24, 130:156] = MOVER
    found, _ = follow_colours(image, odds(), Colours.none())
    assert (found[:14, 62:] <= NOT_THERE).all()


def test_colours_are_carried_along_and_forgotten():
    _, once = follow_colours(picture(), odds(), Colours.none())
    bins = np.zeros((2, 2), np.int32)
    none = np.zeros((2, 2), bool)
    later = once.learned(bins, none, none)
    assert later.moving.sum() == pytest.approx(0.8 * once.moving.sum())
    # A frame in which flow is sure of a part alone knows the rest by its colour.
    part = odds(value=-1.0)
    part[22:32, 26:54] = 3.0
    known, unknown = (follow_colours(picture(), part, colours)[0] > 0 for colours in (once, Colours.none()))
    assert iou(known, truth()) > iou(unknown, truth())


def test_bins_part_colours_and_stay_in_range():
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), -1).reshape(1, -1, 3)
    bins = colour_bins(every)
    assert bins.min() >= 0
    assert bins.max() < BINS**3
    assert len(np.unique(bins)) > 1000


def test_neighbours_of_unlike_colour_do_not_agree():
    lab = np.zeros((20, 20, 3), np.uint8)
    lab[:, 10:] = 120
    values = np.full((20, 20), 0.2, np.float32)
    values[:, 10:] = -3.0
    result = agreed(values, lab)
    assert (result[:, :9] > 0.2).all()  # they strengthen each other, though the other side is surer
    assert (result[:, 11:] < -3.0).all()
    one = np.where(np.indices((20, 20)).sum(0) == 12, -0.5, 0.5).astype(np.float32)
    assert (agreed(one, np.zeros((20, 20, 3), np.uint8)) > 0).all()
