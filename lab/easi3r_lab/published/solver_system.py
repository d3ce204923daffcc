"""From the frames' local coordinates to the unknowns, and from gradient and curvature to a step.

Unknowns, in this order: (T, 6) twists of the frames in their own axes, (1,) or (T,) log focals unless known, (P, 7)
twists of the pairs in the world's axes. The first frame and the pairs' mean log scale stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_lab.published.solver_observations import Observations
from easi3r_lab.published.solver_state import State, adjoint
from easi3r_ros.core.geometry import invert_se3


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
    """Local coordinates of a frame from the unknowns of its slots and its own pose and focal.

    Local = A @ (pairs' twists, targets' twists and log focals) + own @ (own twist and log focal), where A turns every
    pair's twist to the camera's axes and every target's twist round.
    """

    layout: Layout
    to_camera: torch.Tensor  # (T, 7, 7) float64
    own: torch.Tensor  # (T, L, 7) float64, L = 7 S + 1 for S point and flow slots
    index: torch.Tensor  # (T, L + 6) unknowns of the slots, then own; `layout.size` is a place for nothing
    point_size: int  # 7 K

    def local(self, x: torch.Tensor) -> torch.Tensor:
        """(U,) -> (T, L)"""
        found = torch.cat([x, x.new_zeros(1)])[self.index]
        slots = self._times(found[:, None, :-7], self.to_camera.mT)[:, 0]
        own = (self.own @ found[:, -7:, None])[..., 0]
        return torch.cat([slots + own[:, :-1], own[:, -1:]], 1)

    def gradient(self, local: torch.Tensor) -> torch.Tensor:
        """(T, L) -> (U,)"""
        slots = self._times(local[:, None, :-1], self.to_camera)[:, 0]
        own = (self.own.mT @ local[..., None])[..., 0]
        total = local.new_zeros(self.layout.size + 1)
        return total.index_add_(0, self.index.flatten(), torch.cat([slots, own], 1).flatten())[:-1]

    def curvature(self, local: torch.Tensor) -> torch.Tensor:
        """(T, L, L) symmetric -> (U, U)"""
        half = self._times(local[:, :-1, :-1], self.to_camera)
        slots = self._times(half.mT, self.to_camera)
        with_own = local @ self.own  # (T, L, 7)
        cross = self._times(with_own[:, :-1].mT, self.to_camera)
        own = self.own.mT @ with_own
        values = torch.cat([torch.cat([slots, cross.mT], 2), torch.cat([cross, own], 2)], 1)
        side = self.layout.size + 1
        at = self.index[:, :, None] * side + self.index[:, None]
        total = local.new_zeros(side * side).index_add_(0, at.flatten(), values.flatten())
        return total.unflatten(0, (side, side))[:-1, :-1]

    def _times(self, rows: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """(T, R, 7 S) @ A, or @ A^T if `turn` is transposed."""
        point, flow = rows[:, :, : self.point_size], rows[:, :, self.point_size :]
        turned = point.reshape(len(rows), -1, 7) @ turn  # (T, R K, 7)
        signs = rows.new_tensor([-1.0] * 6 + [1.0]).repeat(flow.shape[2] // 7)
        return torch.cat([turned.reshape(point.shape), flow * signs], 2)


def local_map(layout: Layout, observations: Observations, state: State) -> LocalMap:
    """How the coordinates of `solver_local` follow from the unknowns at `state`."""
    frames, slots = observations.pair.shape
    eye, cam_from_world = torch.eye(7, dtype=torch.float64), invert_se3(state.world_from_cam)
    still = torch.diag(eye.new_tensor([-1.0] * 6 + [0.0]))  # the camera moves, the pair's points do not
    own = [still.repeat(frames, slots, 1)]
    if observations.flow is not None:
        to_target = adjoint(cam_from_world[observations.flow.target] @ state.world_from_cam[:, None])
        to_target[..., 6] = to_target[..., 6, :] = 0.0
        own.append(to_target.flatten(1, 2))
    own.append(eye[6:].expand(frames, -1, -1))
    index = _index(layout, observations)
    return LocalMap(layout, adjoint(cam_from_world), torch.cat(own, 1), index, 7 * slots)


def _index(layout: Layout, observations: Observations) -> torch.Tensor:
    own = torch.arange(layout.frames)[:, None]
    cameras = own if observations.flow is None else torch.cat([observations.flow.target, own], 1)  # (T, F + 1)
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


def factorise(layout: Layout, curvature: torch.Tensor, damping: float) -> torch.Tensor | None:
    """Cholesky factor of the (U, U) curvature, less the first frame's pose, with the pairs' common scale held.

    damping: share of the typical frame's or pair's curvature that is added to each; a frame or pair of which little
    static is seen cannot run away. None if the curvature is not positive.
    """
    scales, held = layout.log_scales, curvature.clone()
    diagonal = curvature.diagonal()
    typical = [part.mean(0, keepdim=True).expand_as(part).flatten() for part in layout.split(diagonal)]
    held[scales[:, None], scales] += diagonal[scales].mean()
    held = held[6:, 6:]
    held.diagonal().add_(torch.cat(typical)[6:], alpha=damping)
    factor, failed = torch.linalg.cholesky_ex(held)
    return None if failed else factor


def gauss_newton(factor: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """(U,) step for a free gradient."""
    return torch.cat([gradient.new_zeros(6), -torch.cholesky_solve(gradient[6:, None], factor)[:, 0]])


def pose_covariance(layout: Layout, factor: torch.Tensor) -> torch.Tensor:
    """(T, 6, 6) inverse of the curvature, the blocks of the frames' twists; zero for the first, which is held."""
    columns = torch.eye(len(factor), 6 * (layout.frames - 1), dtype=factor.dtype)
    half = torch.linalg.solve_triangular(factor, columns, upper=False).unflatten(1, (-1, 6)).transpose(0, 1)
    return torch.cat([torch.zeros(1, 6, 6, dtype=factor.dtype), half.mT @ half])
