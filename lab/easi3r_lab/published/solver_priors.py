"""The terms without pixels: smooth motion, and focal lengths that belong to one camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_lab.published.solver_state import State
from easi3r_lab.published.solver_system import Layout
from easi3r_ros.core.geometry import hat

STANDSTILL = 1e-9  # world units or radians: a motion this small has no direction


@dataclass(frozen=True)
class Quadratic:
    """A term around the current state."""

    value: float
    gradient: torch.Tensor  # (U,)
    curvature: torch.Tensor  # (U, U)
    published: bool  # part of the published objective


def temporal(layout: Layout, state: State, weight: float, translation_weight: float) -> Quadratic:
    """Sum over consecutive frames of |relative rotation - I|_F + translation_weight * |relative translation|.

    Norms as re-weighted least squares.
    """
    rotation, position = state.world_from_cam[:, :3, :3], state.world_from_cam[:, :3, 3]
    relative = rotation[:-1].mT @ rotation[1:]
    generators = hat(torch.eye(3, dtype=torch.float64))  # (3, 3, 3)
    by_rotation = torch.zeros(layout.frames - 1, 9, 12, dtype=torch.float64)  # columns: twists of both frames
    by_rotation[:, :, 3:6] = -(generators @ relative[:, None]).flatten(2).mT
    by_rotation[:, :, 9:] = (relative[:, None] @ generators).flatten(2).mT
    by_position = torch.zeros(layout.frames - 1, 3, 12, dtype=torch.float64)
    by_position[:, :, :3], by_position[:, :, 6:9] = -rotation[:-1], rotation[1:]
    turned = (relative - torch.eye(3, dtype=torch.float64)).flatten(1)
    moved = position[1:] - position[:-1]
    gradient = torch.zeros(layout.size, dtype=torch.float64)
    curvature = torch.zeros(layout.size, layout.size, dtype=torch.float64)
    value = 0.0
    for residual, jacobian, share in ((turned, by_rotation, weight), (moved, by_position, weight * translation_weight)):
        length = residual.norm(dim=1).clamp(min=STANDSTILL)
        scaled = jacobian * (share / length)[:, None, None]
        value += share * float(length.sum())
        slopes, bends = (scaled.mT @ residual[..., None])[..., 0], scaled.mT @ jacobian
        for n in range(layout.frames - 1):
            at = slice(6 * n, 6 * n + 12)
            gradient[at] += slopes[n]
            curvature[at, at] += bends[n]
    return Quadratic(value, gradient, curvature, published=True)


def one_camera(layout: Layout, state: State, weight: float, focal: float) -> Quadratic:
    """weight / 2 * sum of squared deviations of the log focals from that of `focal` (pixels)."""
    deviation = (state.focal / focal).log()
    gradient = torch.zeros(layout.size, dtype=torch.float64)
    curvature = torch.zeros(layout.size, layout.size, dtype=torch.float64)
    gradient[layout.focal] = weight * deviation
    curvature[layout.focal, layout.focal] = weight * torch.eye(layout.focals, dtype=torch.float64)
    return Quadratic(0.5 * weight * float(deviation.square().sum()), gradient, curvature, published=False)
