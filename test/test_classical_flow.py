"""Flow and what is believed about its errors."""

import cv2
import numpy as np
import pytest
from helpers_classical import texture

from easi3r_ros.core.two_view.flow import (
    FlowEstimator,
    flow_information,
    node_pixels,
    on_grid,
    structure_tensor,
    to_pixels,
)


def shifted(du: float, dv: float, size: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two cut-outs of one texture: what is at x in the first is at x + (du, dv) in the second."""
    big = texture(seed, 256)
    move = np.array([[1, 0, -60], [0, 1, -60]], float)
    first = cv2.warpAffine(big, move, (size, size))
    second = cv2.warpAffine(big, move + [[0, 0, du], [0, 0, dv]], (size, size))
    return first.round().astype(np.uint8), second.round().astype(np.uint8)


def both_ways(first, second, expected=None, estimator=None):
    structure = structure_tensor(first), structure_tensor(second)
    return (estimator or FlowEstimator()).both_ways((first, second), structure, expected)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.5, -0.75), (5.25, 3.0)])
def test_flow_of_a_shift_is_the_shift_both_ways(shift):
    forward, backward = both_ways(*shifted(*shift))
    inner = (slice(8, -8), slice(8, -8))
    for flow, sign in ((forward, 1), (backward, -1)):
        error = (flow.target - flow.nodes) - sign * np.array(shift)[:, None, None]
        assert np.median(np.hypot(*error)[inner]) < 0.1
        assert np.median(flow.cycle[inner]) < 0.1


def test_expected_flow_finds_a_motion_too_large_for_the_search():
    shift = np.array([31.0, -24.0], np.float32)
    first, second = shifted(*shift)
    with_hint, _ = both_ways(first, second, np.broadcast_to(shift, (*first.shape, 2)).copy())
    stays = np.zeros(with_hint.cycle.shape, bool)
    stays[16:, :30] = True  # what is still in view
    error = np.hypot(*((with_hint.target - with_hint.nodes) - shift[:, None, None]))
    assert np.median(error[stays]) < 0.3


def test_estimator_remembers_no_earlier_start():
    first, second = shifted(1.0, 0.5)
    used = FlowEstimator()
    both_ways(first, second, np.full((*first.shape, 2), 40.0, np.float32), used)
    np.testing.assert_array_equal(both_ways(first, second, None, used)[0].target, both_ways(first, second)[0].target)


def test_information_inverts_the_covariance():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(50, 2, 2))
    structure = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(2)
    variance = rng.uniform(0.01, 1.0, 50)
    planes = np.stack([structure[:, 0, 0], structure[:, 0, 1], structure[:, 1, 1]])
    xx, xy, yy = flow_information(planes, variance)
    covariance = 0.32**2 * np.linalg.inv(structure) + variance[:, None, None] * np.eye(2)
    expected = np.linalg.inv(covariance)
    np.testing.assert_allclose(xx, expected[:, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(xy, expected[:, 0, 1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(yy, expected[:, 1, 1], rtol=1e-6)


def test_stripes_inform_across_but_not_along():
    stripes = np.tile((127 + 100 * np.sin(np.arange(64) / 2)).astype(np.uint8), (64, 1))
    forward, _ = both_ways(stripes, stripes)
    xx, _, yy = forward.information[:, 16, 16]
    assert xx > 100
    assert yy < 1e-3 * xx


def test_what_leaves_the_image_says_nothing():
    forward, _ = both_ways(*shifted(8.0, 0.0), np.full((96, 96, 2), (8.0, 0.0), np.float32))
    out = forward.target[0] > 95.5
    assert out.any()
    assert forward.information[0][out].max() < 0.01 < np.median(forward.information[0][~out])


@pytest.mark.parametrize("size", [(96, 64), (97, 65), (33, 18)])
def test_grid_keeps_positions(size):
    width, height = size
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    nodes = node_pixels(height, width)
    np.testing.assert_allclose(on_grid(u), nodes[0], atol=0.02)
    np.testing.assert_allclose(on_grid(v), nodes[1], atol=0.02)
    np.testing.assert_allclose(to_pixels(nodes[0], size)[:, 2:-2], u[:, 2:-2], atol=0.02)
