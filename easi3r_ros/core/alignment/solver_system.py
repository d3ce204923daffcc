"""From the frames' local coordinates to the unknowns: gauge, terms without pixels, and the step.

Unknowns, in this order: (T, 6) twists of the frames in their own axes, (1,) or (T,) log focals, (P, 7) twists of the
pairs in the world's axes. The first frame and the mean log scale of the pairs stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment.solver_observations import Observations
from easi3r_ros.core.alignment.solver_state import State, adjoint
from easi3r_ros.core.geometry import hat, invert_se3

RIDGE = 1e-10  # of the mean curvature: decides what nothing else does


@dataclass(frozen=True)
class Layout:
    frames: int
    focals: int  # 0: known
    pairs: int

    @property
    def size(self) -> int:
        return 6 * self.frames + self.focals + 7 * self.pairs

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pose, focal, pair = x.split([6 * self.frames, self.focals, 7 * self.pairs])
        return pose.reshape(-1, 6), focal, pair.reshape(-1, 7)

    @property
    def log_scales(self) -> torch.Tensor:
        return 6 * self.frames + self.focals + 6 + 7 * torch.arange(self.pairs)


@dataclass(frozen=True)
class LocalMap:
    """local step = matrix @ x[index]; index `layout.size` is a place for nothing."""

    matrix: torch.Tensor  # (T, L, V)
    index: torch.Tensor  # (T, V)


def local_map(layout: Layout, observations: Observations, state: State) -> LocalMap:
    """How the local coordinates of `solver_local` follow from the unknowns."""
    frames, slots = observations.pair.shape
    flow = observations.flow
    flows = 0 if flow is None else flow.target.shape[1]
    ahead = 7 * slots
    matrix = torch.zeros(frames, 7 * (slots + flows) + 1, ahead + 7 + 7 * flows, dtype=torch.float64)
    eye, cam_from_world = torch.eye(7, dtype=torch.float64), invert_se3(state.world_from_cam)
    to_camera = adjoint(cam_from_world)
    for k in range(slots):
        at = slice(7 * k, 7 * k + 7)
        matrix[:, at, at] = to_camera
        matrix[:, at, ahead : ahead + 6] = -eye[:, :6]
    if flow is not None:
        to_target = adjoint(cam_from_world[flow.target] @ state.world_from_cam[:, None])
        for k in range(flows):
            row = 7 * (slots + k)
            at = ahead + 7 * (k + 1)
            matrix[:, row : row + 6, ahead : ahead + 6] = to_target[:, k, :6, :6]
            matrix[:, row : row + 6, at : at + 6] = -eye[:6, :6]
            matrix[:, row + 6, at + 6] = 1.0
    matrix[:, -1, ahead + 6] = 1.0
    return LocalMap(matrix, _index(layout, observations))


def _index(layout: Layout, observations: Observations) -> torch.Tensor:
    own = torch.arange(layout.frames)[:, None]
    targets = own if observations.flow is None else torch.cat([own, observations.flow.target], 1)  # (T, 1 + F)
    pose = 6 * targets[..., None] + torch.arange(6)
    focal = 6 * layout.frames + (targets if layout.focals > 1 else torch.zeros_like(targets))
    if not layout.focals:
        focal = torch.full_like(targets, layout.size)
    pair = 6 * layout.frames + layout.focals + 7 * observations.pair[..., None] + torch.arange(7)
    return torch.cat([pair.flatten(1), torch.cat([pose, focal[..., None]], -1).flatten(1)], 1)


def gather_gradient(layout: Layout, mapping: LocalMap, local: torch.Tensor) -> torch.Tensor:
    """(T, L) -> (U,)"""
    total = torch.zeros(layout.size + 1, dtype=torch.float64)
    values = (mapping.matrix.mT @ local[..., None])[..., 0]
    return total.index_add_(0, mapping.index.flatten(), values.flatten())[:-1]


def gather_curvature(layout: Layout, mapping: LocalMap, local: torch.Tensor) -> torch.Tensor:
    """(T, L, L) -> (U, U)"""
    side = layout.size + 1
    total = torch.zeros(side * side, dtype=torch.float64)
    values = mapping.matrix.mT @ local @ mapping.matrix  # (T, V, V)
    at = mapping.index[:, :, None] * side + mapping.index[:, None]
    return total.index_add_(0, at.flatten(), values.flatten()).reshape(side, side)[:-1, :-1]


def factorise(layout: Layout, curvature: torch.Tensor) -> torch.Tensor:
    """Cholesky factor of the curvature without the first frame's pose, the pairs' common scale held."""
    scales = layout.log_scales
    typical = curvature.diagonal().mean()
    held = curvature.clone()
    held[scales[:, None], scales] += curvature[scales, scales].mean()
    held.diagonal().add_(RIDGE * typical)
    held = held[6:, 6:]
    damping = 0.0
    while True:
        factor, failed = torch.linalg.cholesky_ex(held + damping * torch.diag(held.diagonal()))
        if not failed:
            return factor
        damping = max(10 * damping, 1e-8)


def without_gauge(layout: Layout, gradient: torch.Tensor) -> torch.Tensor:
    """(U,) gradient of what may move: not the first frame, not the mean log scale."""
    free = gradient.clone()
    free[:6] = 0.0
    free[layout.log_scales] -= free[layout.log_scales].mean()
    return free


def solve_step(factor: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """(U,) Gauss-Newton step."""
    return torch.cat([gradient.new_zeros(6), -torch.cholesky_solve(gradient[6:, None], factor)[:, 0]])


def temporal(layout: Layout, state: State, weight: float, translation_weight: float):
    """Value, gradient (U,) and curvature (U, U) of the temporal term, re-weighted least squares."""
    rotation, position = state.world_from_cam[:, :3, :3], state.world_from_cam[:, :3, 3]
    value = torch.zeros((), dtype=torch.float64)
    g = torch.zeros(layout.size, dtype=torch.float64)
    H = torch.zeros(layout.size, layout.size, dtype=torch.float64)
    generators = hat(torch.eye(3, dtype=torch.float64))
    for n in range(layout.frames - 1):
        at = slice(6 * n, 6 * n + 12)
        relative = rotation[n].T @ rotation[n + 1]
        by_rotation = torch.zeros(9, 12, dtype=torch.float64)
        by_rotation[:, 3:6] = -(generators @ relative).flatten(1).T
        by_rotation[:, 9:12] = (relative @ generators).flatten(1).T
        by_position = torch.zeros(3, 12, dtype=torch.float64)
        by_position[:, :3], by_position[:, 6:9] = -rotation[n], rotation[n + 1]
        turn = ((relative - torch.eye(3, dtype=torch.float64)).flatten(), by_rotation, weight)
        move = (position[n + 1] - position[n], by_position, weight * translation_weight)
        for residual, jacobian, share in (turn, move):
            length = residual.norm().clamp(min=1e-9)
            value += share * length
            g[at] += share / length * (jacobian.T @ residual)
            H[at, at] += share / length * (jacobian.T @ jacobian)
    return value, g, H
