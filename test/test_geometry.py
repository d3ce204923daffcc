"""Transforms, projection, Procrustes and focal estimation against values known in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from easi3r_ros.core import geometry


def random_pose(seed):
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    pose[:3, 3] = rng.normal(size=3)
    return torch.from_numpy(pose)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_inverse_cancels(seed):
    pose = random_pose(seed)
    assert torch.allclose(geometry.invert_se3(pose) @ pose, torch.eye(4, dtype=torch.float64), atol=1e-12)


def test_se3_exp_is_rotation_vector_and_screw():
    twist = torch.tensor([0.0, 0.0, 0.0, 0.1, -0.2, 0.3], dtype=torch.float64)
    assert np.allclose(geometry.se3_exp(twist)[:3, :3], Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix())
    pure = geometry.se3_exp(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0]))
    assert torch.allclose(pure[:3, 3], torch.tensor([1.0, 2.0, 3.0]))


def test_projection_undoes_unprojection():
    K = torch.tensor([[100.0, 0.0, 31.5], [0.0, 90.0, 23.5], [0.0, 0.0, 1.0]])
    depth = torch.rand(48, 64) + 0.5
    pixels = geometry.project(geometry.unproject(depth, K), K)
    assert torch.allclose(pixels, geometry.pixel_grid(48, 64), atol=1e-4)
    assert tuple(geometry.pixel_grid(48, 64)[5, 7].tolist()) == (7.0, 5.0)  # (u, v), u to the right


@pytest.mark.parametrize("with_scale", [True, False])
def test_procrustes_recovers_a_similarity_and_ignores_zero_weights(with_scale):
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.normal(size=(50, 3)))
    pose, scale = random_pose(7), 2.5 if with_scale else 1.0
    target = scale * source @ pose[:3, :3].T + pose[:3, 3]
    target[:10] += 100.0  # gross outliers without weight
    weights = torch.ones(50)
    weights[:10] = 0.0
    rigid, found = geometry.weighted_procrustes(source, target, weights, with_scale)
    assert torch.allclose(rigid, pose, atol=1e-10)
    assert float(found) == pytest.approx(scale)


def test_procrustes_never_returns_a_reflection():
    source = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [-1, -1, 0.0]])  # planar: a reflection would fit as well
    rigid, _ = geometry.weighted_procrustes(source, source * torch.tensor([1.0, -1.0, 1.0]), torch.ones(3))
    assert float(torch.det(rigid[:3, :3])) == pytest.approx(1.0)


def test_procrustes_without_weight_is_an_error():
    with pytest.raises(ValueError, match="weights"):
        geometry.weighted_procrustes(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4))


def test_weighted_median():
    values, weights = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 5.0])
    assert float(geometry.weighted_median(values, weights)) == 2.0
    with pytest.raises(ValueError):
        geometry.weighted_median(values, torch.zeros(3))


@pytest.mark.parametrize("focal", [40.0, 150.0])
def test_focal_survives_a_tenth_of_points_off_their_rays(focal):
    K = torch.from_numpy(geometry.intrinsics(focal, (96, 64)))
    generator = torch.Generator().manual_seed(0)
    points = geometry.unproject(torch.rand(64, 96, generator=generator) + 1.0, K)
    wild = torch.rand(64, 96, generator=generator) < 0.1
    points[wild] += 0.3 * torch.randn(int(wild.sum()), 3, generator=generator)
    assert geometry.focal_from_pointmap(points, (48.0, 32.0)) == pytest.approx(focal, rel=0.01)
