"""From the frames' local coordinates to the unknowns, and from gradient and curvature to a step.

Unknowns, in this order: (T, 6) twists of the frames in their own axes, (1,) or (T,) log focals unless known, (P, 7)
twists of the pairs in the world's axes. The first frame and the pairs' mean log scale stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment.solver_observations import Observations
from easi3r_ros.core.alignment.solver_state import State, adjoint
from easi3r_ros.core.geometry import invert_se3

RIDGE = 1e-10  # of the mean curvature: decides what nothing else does
DAMPINGS = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)  # of the diagonal, tried in turn


@dataclass(frozen=True)
class Layout:
    frames: int
    focals: int  # 0: known
    pairs: int

    @property
    def size(self) -> int:
        return 6 * self.frames + self.focals + 7 * self.pairs

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(U,) -> (T, 6) frame twists, (focals,) log focals, (P, 7) pair twists."""
        pose, focal, pair = x.split([6 * self.frames, self.focals, 7 * self.pairs])
        return pose.unflatten(0, (-1, 6)), focal, pair.unflatten(0, (-1, 7))

    @property
    def focal(self) -> slice:
        return slice(6 * self.frames, 6 * self.frames + self.focals)

    @property
    def log_scales(self) -> torch.Tensor:
        return 6 * self.frames + self.focals + 6 + 7 * torch.arange(self.pairs)


@dataclass(frozen=True)
class LocalMap:
    """Local coordinates of every frame from the unknowns: local = matrix @ x[index]; one index is a place for nothing."""

    layout: Layout
    matrix: torch.Tensor  # (T, L, V) float64
    index: torch.Tensor  # (T, V)

    def local(self, x: torch.Tensor) -> torch.Tensor:
        """(U,) -> (T, L)"""
        return (self.matrix @ torch.cat([x, x.new_zeros(1)])[self.index][..., None])[..., 0]

    def gradient(self, local: torch.Tensor) -> torch.Tensor:
        """(T, L) -> (U,)"""
        values = (self.matrix.mT @ local[..., None])[..., 0]
        total = local.new_zeros(self.layout.size + 1)
        return total.index_add_(0, self.index.flatten(), values.flatten())[:-1]

    def curvature(self, local: torch.Tensor) -> torch.Tensor:
        """(T, L, L) -> (U, U)"""
        side = self.layout.size + 1
        values = self.matrix.mT @ local @ self.matrix  # (T, V, V)
        at = self.index[:, :, None] * side + self.index[:, None]
        total = local.new_zeros(side * side).index_add_(0, at.flatten(), values.flatten())
        return total.unflatten(0, (side, side))[:-1, :-1]


def local_map(layout: Layout, observations: Observations, state: State) -> LocalMap:
    """How the coordinates of `solver_local` follow from the unknowns at `state`."""
    frames, slots = observations.pair.shape
    flows, flow = observations.flows, observations.flow
    pose = 7 * slots  # columns: pairs of the slots, own pose and focal, pose and focal of the flow slots' targets
    matrix = torch.zeros(frames, 7 * (slots + flows) + 1, pose + 7 * (1 + flows), dtype=torch.float64)
    eye, cam_from_world = torch.eye(7, dtype=torch.float64), invert_se3(state.world_from_cam)
    to_camera = adjoint(cam_from_world)
    for k in range(slots):
        own = slice(7 * k, 7 * k + 7)
        matrix[:, own, own] = to_camera
        matrix[:, own, pose : pose + 6] = -eye[:, :6]
    if flow is not None:
        to_target = adjoint(cam_from_world[flow.target] @ state.world_from_cam[:, None])
        for k in range(flows):
            row, column = 7 * (slots + k), pose + 7 * (1 + k)
            matrix[:, row : row + 6, pose : pose + 6] = to_target[:, k, :6, :6]
            matrix[:, row : row + 6, column : column + 6] = -eye[:6, :6]
            matrix[:, row + 6, column + 6] = 1.0
    matrix[:, -1, pose + 6] = 1.0
    return LocalMap(layout, matrix, _index(layout, observations))


def _index(layout: Layout, observations: Observations) -> torch.Tensor:
    own = torch.arange(layout.frames)[:, None]
    cameras = own if observations.flow is None else torch.cat([own, observations.flow.target], 1)  # (T, 1 + F)
    pose = 6 * cameras[..., None] + torch.arange(6)
    focal = torch.full_like(cameras, layout.size)
    if layout.focals:
        focal = layout.focal.start + (cameras if layout.focals > 1 else torch.zeros_like(cameras))
    pair = layout.focal.stop + 7 * observations.pair[..., None] + torch.arange(7)
    return torch.cat([pair.flatten(1), torch.cat([pose, focal[..., None]], -1).flatten(1)], 1)


def free_gradient(layout: Layout, gradient: torch.Tensor) -> torch.Tensor:
    """(U,) without what may not move: the first frame and the mean log scale."""
    free = gradient.clone()
    free[:6] = 0.0
    free[layout.log_scales] -= free[layout.log_scales].mean()
    return free


def factorise(layout: Layout, curvature: torch.Tensor) -> torch.Tensor:
    """Cholesky factor of the (U, U) curvature, less the first frame's pose, with the pairs' common scale held.

    Raises ValueError if the pairs do not determine the unknowns at all.
    """
    scales, held = layout.log_scales, curvature.clone()
    diagonal = curvature.diagonal()
    held[scales[:, None], scales] += diagonal[scales].mean()
    held = held[6:, 6:]
    for damping in DAMPINGS:
        held.diagonal().add_(RIDGE * diagonal.mean() + damping * diagonal[6:])
        factor, failed = torch.linalg.cholesky_ex(held)
        if not failed:
            return factor
    raise ValueError("the pairs do not determine poses: nothing static is left, or no confidence, or not one finite point")


def gauss_newton(factor: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """(U,) step for a free gradient."""
    return torch.cat([gradient.new_zeros(6), -torch.cholesky_solve(gradient[6:, None], factor)[:, 0]])


def pose_covariance(layout: Layout, factor: torch.Tensor) -> torch.Tensor:
    """(T, 6, 6) inverse of the curvature, the blocks of the frames' twists; zero for the first, which is held."""
    rows = torch.eye(len(factor), 6 * (layout.frames - 1), dtype=factor.dtype)
    inverse = torch.cholesky_solve(rows, factor)[: 6 * (layout.frames - 1)]
    blocks = inverse.unflatten(0, (-1, 6)).unflatten(2, (-1, 6)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    return torch.cat([torch.zeros(1, 6, 6, dtype=factor.dtype), blocks])
