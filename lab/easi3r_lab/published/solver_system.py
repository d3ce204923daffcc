"""From the frames' local coordinates to the unknowns, and from gradient and curvature to a step; terms without pixels.

Unknowns, in this order: (T, 6) twists of the frames in their own axes, (1,) or (T,) log focals unless known, (P, 7)
twists of the pairs in the world's axes. The first frame and the pairs' mean log scale stay where they are. Terms
without pixels are smooth motion, and focal lengths that belong to one camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_lab.published.solver_state import Observations, State, adjoint
from easi3r_ros.core.geometry import hat, invert_se3


@dataclass(frozen=True)
class UnknownLayout:
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

    layout: UnknownLayout
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


def local_map(layout: UnknownLayout, observations: Observations, state: State) -> LocalMap:
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


def _index(layout: UnknownLayout, observations: Observations) -> torch.Tensor:
    own = torch.arange(layout.frames)[:, None]
    cameras = own if observations.flow is None else torch.cat([observations.flow.target, own], 1)  # (T, F + 1)
    pose = 6 * cameras[..., None] + torch.arange(6)
    focal = torch.full_like(cameras, layout.size)
    if layout.focals:
        focal = layout.focal.start + (cameras if layout.focals > 1 else torch.zeros_like(cameras))
    pair = layout.focal.stop + 7 * observations.pair[..., None] + torch.arange(7)
    return torch.cat([pair.flatten(1), torch.cat([pose, focal[..., None]], -1).flatten(1)], 1)


def free_gradient(layout: UnknownLayout, gradient: torch.Tensor) -> torch.Tensor:
    """(U,) without what may not move: the first frame and the mean log scale."""
    free = gradient.clone()
    free[:6] = 0.0
    free[layout.log_scales] -= free[layout.log_scales].mean()
    return free


def factorise(layout: UnknownLayout, curvature: torch.Tensor, damping: float) -> torch.Tensor | None:
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


def pose_covariance(layout: UnknownLayout, factor: torch.Tensor) -> torch.Tensor:
    """(T, 6, 6) inverse of the curvature, the blocks of the frames' twists; zero for the first, which is held."""
    columns = torch.eye(len(factor), 6 * (layout.frames - 1), dtype=factor.dtype)
    half = torch.linalg.solve_triangular(factor, columns, upper=False).unflatten(1, (-1, 6)).transpose(0, 1)
    return torch.cat([torch.zeros(1, 6, 6, dtype=factor.dtype), half.mT @ half])


STANDSTILL = 1e-9  # world units or radians: a motion this small has no direction


@dataclass(frozen=True)
class Quadratic:
    """A term around the current state."""

    value: float
    gradient: torch.Tensor  # (U,)
    curvature: torch.Tensor  # (U, U)
    published: bool  # part of the published objective


def temporal(layout: UnknownLayout, state: State, weight: float, translation_weight: float) -> Quadratic:
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


def one_camera(layout: UnknownLayout, state: State, weight: float, focal: float) -> Quadratic:
    """weight / 2 * sum of squared deviations of the log focals from that of `focal` (pixels)."""
    deviation = (state.focal / focal).log()
    gradient = torch.zeros(layout.size, dtype=torch.float64)
    curvature = torch.zeros(layout.size, layout.size, dtype=torch.float64)
    gradient[layout.focal] = weight * deviation
    curvature[layout.focal, layout.focal] = weight * torch.eye(layout.focals, dtype=torch.float64)
    return Quadratic(0.5 * weight * float(deviation.square().sum()), gradient, curvature, published=False)
