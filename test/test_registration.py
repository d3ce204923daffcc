"""Covariance of a pose from its information: in the world's axes, and never sure of what was not measured."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from easi3r_ros.core import geometry
from easi3r_ros.core.alignment.placement import (
    CAUCHY_FLOOR,
    CONVERGED,
    NEAR,
    UNKNOWN_VARIANCE,
    is_known,
    register,
    rigid_step,
    unknown_covariance,
    world_covariance,
)


def pose(rotation_vector=(0, 0, 0), translation=(0, 0, 0)):
    result = np.eye(4)
    result[:3, :3] = Rotation.from_rotvec(rotation_vector).as_matrix()
    result[:3, 3] = translation
    return torch.from_numpy(result)


def test_the_axes_are_the_world_s():
    """The camera looks along world x: what it knows least, the way along its own z axis, is the world's x."""
    looking_along_x = torch.tensor([[0.0, 0, 1, 5], [-1, 0, 0, 6], [0, -1, 0, 7], [0, 0, 0, 1]], dtype=torch.float64)
    information = torch.diag(1 / torch.tensor([1.0, 2, 30, 4, 5, 60], dtype=torch.float64))
    covariance = world_covariance(information, looking_along_x)
    assert np.allclose(np.diag(covariance), [30, 1, 2, 60, 4, 5], rtol=1e-3)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-9)


def test_correlations_are_turned_as_well():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(6, 6))
    information, camera = torch.from_numpy(root @ root.T + np.eye(6)), pose((0.3, -0.9, 0.4))
    axes = np.kron(np.eye(2), camera[:3, :3].numpy())
    expected = axes @ np.linalg.inv(information.numpy()) @ axes.T
    assert np.allclose(world_covariance(information, camera), expected, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e9])
@pytest.mark.parametrize("direction", [(0, 0, 1, 0, 0, 0), (1, 0, 0, 0, -1, 0)])
def test_a_direction_without_information_is_unknown(direction, scale):
    """Along the optical axis, or a shift that cannot be told from a turn."""
    unseen = np.array(direction) / np.linalg.norm(direction)
    rows = np.random.default_rng(1).normal(size=(50, 6)) * scale**0.5
    rows -= np.outer(rows @ unseen, unseen)
    covariance = world_covariance(torch.from_numpy(rows.T @ rows), pose())
    assert unseen @ covariance @ unseen == pytest.approx(UNKNOWN_VARIANCE, rel=1e-3)
    others = np.linalg.svd(unseen[None])[2][1:]
    assert np.trace(others @ covariance @ others.T) < 10 / scale
    assert not is_known(covariance) and (np.diag(covariance) > 0).all()


@pytest.mark.parametrize("information", [np.zeros((6, 6)), np.full((6, 6), np.nan), np.diag([np.inf] * 6)])
def test_no_information_is_no_knowledge(information):
    covariance = world_covariance(torch.from_numpy(information), pose((0.1, 0.2, 0.3)))
    assert np.allclose(covariance, unknown_covariance()) and not is_known(covariance)


def test_points_on_one_ray_say_nothing_of_the_turn_about_it():
    """A real registration: points on one ray look the same wherever along it the camera is, and however it rolls."""
    K = torch.tensor([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]], dtype=torch.float64)
    ray = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    points = torch.linspace(1, 3, 20, dtype=torch.float64)[:, None] * ray
    pixels = (K[:2, :2] @ ray[:2] + K[:2, 2]).expand(20, 2)
    found = register(points, pixels, torch.ones(20), K, pose())
    covariance = world_covariance(found.information, found.world_from_cam)
    along, across = (ray / ray.norm()).numpy(), np.array([2.0, 3.0, 0.0]) / 13**0.5
    for block in (covariance[:3, :3], covariance[3:, 3:]):
        assert along @ block @ along == pytest.approx(UNKNOWN_VARIANCE, rel=1e-3)
    assert across @ covariance[:3, :3] @ across < 1


def textbook(world, pixels, weights, K, start, iterations, noise):
    """What `register` says that it does, with derivatives by automatic differentiation; (pose, information)."""
    weights = weights / weights[weights > 0].mean()
    camera, floor = geometry.invert_se3(start), max(CAUCHY_FLOOR * float(K[0, 0]), noise)

    def residual(twist, camera):
        return geometry.project(geometry.transform(geometry.se3_exp(twist) @ camera, world), K) - pixels

    def equations(camera):
        z = geometry.transform(camera, world)[:, 2]
        front = z > NEAR * z.median().clamp(min=0.0)
        rows = torch.autograd.functional.jacobian(lambda t: residual(t, camera), torch.zeros(6).double())
        off = residual(torch.zeros(6).double(), camera)
        error = torch.where(front, off.norm(dim=-1), torch.inf)
        sigma = max(floor, 1.4826 * float(error[weights > 0].median()))
        w = torch.where(front, weights / (1 + (error / sigma) ** 2) / sigma**2, 0.0)
        rows, off = (torch.where(front.view(-1, *[1] * (x.ndim - 1)), x, 0.0) for x in (rows, off))
        return torch.einsum("n,nci,ncj->ij", w, rows, rows), torch.einsum("n,nci,nc->i", w, rows, off)

    for _ in range(iterations):
        normal, gradient = equations(camera)
        step = -torch.linalg.solve(normal + 1e-9 * normal.diagonal().mean() * torch.eye(6), gradient)
        camera = geometry.se3_exp(step) @ camera
        if step.norm() < CONVERGED:
            break
    return geometry.invert_se3(camera), equations(camera)[0]


@pytest.mark.parametrize(("iterations", "noise"), [(1, 0.0), (3, 0.0), (10, 2.0)])
def test_a_registration_is_gauss_newton_on_cauchy(iterations, noise):
    """With outliers, points without weight, and points behind the camera."""
    rng = torch.Generator().manual_seed(3)
    K = torch.tensor([[100.0, 0, 50], [0, 110, 40], [0, 0, 1]], dtype=torch.float64)
    world = torch.rand(301, 3, generator=rng, dtype=torch.float64) * 4 - torch.tensor([2.0, 2, -2])
    world[:20, 2] -= 6
    truth = pose((0.05, -0.1, 0.02), (0.3, 0.1, -0.2))
    pixels = geometry.project(geometry.transform(geometry.invert_se3(truth), world), K)
    pixels += 0.5 * torch.randn(301, 2, generator=rng, dtype=torch.float64)
    pixels[100:130] += 40
    weights = torch.rand(301, generator=rng, dtype=torch.float64)
    weights[200:240] = 0
    found = register(world, pixels, weights, K, pose(), iterations, noise)
    expected, information = textbook(world, pixels, weights, K, pose(), iterations, noise)
    torch.testing.assert_close(found.world_from_cam, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.information, information, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 9.9e-3, 1.01e-2, 0.5, 3.1])
def test_a_rigid_step_is_the_exponential(angle):
    twist = np.array([0.3, -2.0, 0.7, *(angle * np.array([2, -1, 2]) / 3)])
    assert np.allclose(rigid_step(twist), geometry.se3_exp(torch.from_numpy(twist)).numpy(), rtol=0, atol=1e-13)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("behind", [150, 250])
def test_points_behind_the_camera_are_no_cause_for_warnings(behind):
    rng = torch.Generator().manual_seed(4)
    K = torch.tensor([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]], dtype=torch.float64)
    world = torch.rand(300, 3, generator=rng, dtype=torch.float64) + torch.tensor([0.0, 0, 1])
    pixels = geometry.project(world, K)
    world[:behind, 2] *= -1
    found = None
    try:
        found = register(world, pixels, torch.ones(300), K, pose(translation=(0.1, 0, 0)))
    except ValueError as error:
        assert "in front of the camera" in str(error)
    assert found is None or torch.isfinite(found.world_from_cam).all()
