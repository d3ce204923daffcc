"""Baselines: blind to the camera's own motion where their model holds, and awake to what moves on its own."""

import cv2
import numpy as np
import pytest
from easi3r_lab.eval.baselines import BASELINES, chance, frame_difference, nothing, sampson_error

SIZE = (96, 128)


def texture(seed: int, shape: tuple[int, int] = (160, 200)) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (*shape, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def shifted(scene: np.ndarray, dx: int, dy: int) -> np.ndarray:
    return np.ascontiguousarray(scene[20 + dy : 20 + dy + SIZE[0], 20 + dx : 20 + dx + SIZE[1]])


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A background that moves by (3, 1) with the camera, a patch that moves down by 4 on its own, and where it is."""
    scene, patch = texture(0), texture(1)[:30, :30]
    earlier, newest = shifted(scene, 0, 0), shifted(scene, 3, 1)
    earlier[30:60, 50:80] = patch
    newest[34:64, 50:80] = patch
    truth = np.zeros(SIZE, bool)
    truth[34:64, 50:80] = True
    return earlier, newest, truth


def test_movers_stand_out_of_the_frame_difference(pair):
    earlier, newest, truth = pair
    score = frame_difference(earlier, newest)
    assert score.shape == SIZE
    assert score.dtype == np.float32
    inner = np.zeros(SIZE, bool)
    inner[8:-8, 8:-8] = True
    assert np.median(score[truth]) > 4 * np.median(score[inner & ~truth])


@pytest.mark.parametrize("baseline", [frame_difference, sampson_error])
def test_a_moving_camera_alone_is_explained(baseline):
    scene = texture(2)
    score = baseline(shifted(scene, 0, 0), shifted(scene, 3, 1))
    limit = 6.0 if baseline is frame_difference else 0.5  # grey levels; pixels
    assert np.median(score) < limit


def test_a_blank_wall_is_no_error():
    blank = np.full((*SIZE, 3), 90, np.uint8)
    for name, baseline in BASELINES.items():
        assert np.isfinite(baseline(blank, blank)).all(), name


def test_nothing_and_chance():
    image = texture(3)[: SIZE[0], : SIZE[1]]
    assert not nothing(image, image).any()
    np.testing.assert_array_equal(chance(image, image), chance(image, image))
    assert 0.45 < chance(image, image).mean() < 0.55
