"""Gradient and curvature of the objective in each frame's own coordinates, depth eliminated by the Schur complement.

The L local coordinates of a frame are the twists of its K point slots (7 each: translation, rotation, log scale in the
camera's axes), those of its F flow slots (7 each: twist and log focal of the target camera) and its own log focal.

The point term (eq. 2) are distances between a frame's own points and what its pairs say, in the frame's camera. By the
twist of a slot, the residual (own point - pair's point Y) has the derivative J = -[I, -hat(Y), Y].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_lab.published import solver_flow as flow_term
from easi3r_lab.published.solver_flow import FlowLinear
from easi3r_lab.published.solver_tile import CURVATURE, PixelTile, counting, linearise
from easi3r_ros.core.geometry import hat


@dataclass(frozen=True)
class Gradient:
    """Derivative by the local coordinates, float64."""

    point_moments: torch.Tensor  # (t, K, 4, 3), see `point_moments`
    flow: torch.Tensor  # (t, F, 7)
    focal: torch.Tensor  # (t,)


def gradient(tile: PixelTile, weight: torch.Tensor, flow: FlowLinear | None, depth: torch.Tensor) -> Gradient:
    """At depth (t, n). weight: (t, K, n) of the point term's squared distances."""
    own = torch.stack([depth * tile.x[:, 0], depth * tile.y[:, 0], depth], 1)  # (t, 3, n)
    pull = torch.sub(own[:, None], tile.predicted).mul_(weight[:, :, None])
    total = pull.sum(1)
    focal = -(total[:, :2] * own[:, :2]).sum((1, 2)).double()  # a longer focal length narrows the rays
    moments = point_moments(tile.predicted, pull)
    if flow is None:
        return Gradient(moments, moments.new_zeros(len(depth), 0, 7), focal)
    by_flow = flow_term.gradient(tile.flow, flow, depth)  # (t, F, 8)
    return Gradient(moments, by_flow[..., :7], focal + by_flow[..., 7].sum(1))


@dataclass(frozen=True)
class Curvature:
    """Second derivative by the local coordinates."""

    matrix: torch.Tensor  # (t, L, L) float64, depth eliminated
    coupling: torch.Tensor  # (t, L, n) second derivative with depth
    stiffness: torch.Tensor  # (t, n) second derivative of depth alone

    def depth_step(self, local_step: torch.Tensor) -> torch.Tensor:
        """(t, n) change of the best depth with a step (t, L) of the local coordinates."""
        return -(local_step.to(self.coupling)[:, None] @ self.coupling)[:, 0] / self.stiffness


def curvature(tile: PixelTile, depth: torch.Tensor, flow: FlowLinear | None) -> Curvature:
    """At depth (t, n)."""
    linear = linearise(tile, depth, flow)
    weight = CURVATURE * counting(tile, linear.weight)
    slots, flows = tile.foot.shape[1], 0 if flow is None else flow.residual.shape[1]
    size = 7 * (slots + flows) + 1
    matrix = torch.zeros(len(depth), size, size, dtype=torch.float64, device=depth.device)
    coupling = torch.empty(len(depth), size, depth.shape[1], device=depth.device)
    narrow = -torch.stack([depth * tile.x[:, 0], depth * tile.y[:, 0], torch.zeros_like(depth)], 1)  # by log focal
    total = weight.sum(1)
    _put(matrix, 0, point_normal(tile.predicted, weight))
    pull = weight[:, :, None] * narrow[:, None]
    _put_focal(matrix, 0, point_gradient(point_moments(tile.predicted, pull)))
    matrix[:, -1, -1] = (total * narrow.square().sum(1)).sum(1)
    coupling[:, : 7 * slots] = point_coupling(tile.predicted, weight, tile.x, tile.y).flatten(1, 2)
    coupling[:, -1] = -depth * total * (tile.ray2[:, 0] - 1.0)
    stiffness = CURVATURE * linear.point_stiffness + linear.other_stiffness
    if flow is not None:
        normal, with_depth, own = flow_term.curvature(tile.flow, flow)
        _put(matrix, slots, normal[..., :7, :7])
        _put_focal(matrix, slots, normal[..., :7, 7])
        matrix[:, -1, -1] += normal[..., 7, 7].sum(1)
        coupling[:, 7 * slots : -1] = with_depth[:, :, :7].flatten(1, 2)
        coupling[:, -1] += with_depth[:, :, 7].sum(1)
        stiffness = stiffness + own - flow.stiffness
    scaled = coupling * stiffness.rsqrt()[:, None]
    return Curvature(matrix - (scaled @ scaled.mT).double(), coupling, stiffness)


def _put(matrix: torch.Tensor, first: int, blocks: torch.Tensor) -> None:
    for k in range(blocks.shape[1]):
        at = slice(7 * (first + k), 7 * (first + k + 1))
        matrix[:, at, at] = blocks[:, k]


def _put_focal(matrix: torch.Tensor, first: int, cross: torch.Tensor) -> None:
    at = slice(7 * first, 7 * (first + cross.shape[1]))
    matrix[:, at, -1] = matrix[:, -1, at] = cross.flatten(1)


def point_moments(predicted: torch.Tensor, pull: torch.Tensor) -> torch.Tensor:
    """(t, K, 4, 3) float64 sums over the pixels of Y pull^T and, last, of the pulls. predicted, pull: (t, K, 3, n)."""
    return torch.cat([predicted @ pull.mT, pull.sum(-1)[:, :, None]], 2).double()


def point_gradient(moments: torch.Tensor) -> torch.Tensor:
    """(..., 4, 3) `point_moments` -> (..., 7) sum of J^T pull."""
    turn = [moments[..., i, j] - moments[..., j, i] for i, j in ((1, 2), (2, 0), (0, 1))]
    trace = moments[..., :3, :].diagonal(dim1=-2, dim2=-1).sum(-1)
    return -torch.cat([moments[..., 3, :], torch.stack([*turn, trace], -1)], -1)


def point_normal(predicted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(t, K, 7, 7) sum of weight J^T J, from the first and second moments of the predicted points."""
    weighted = predicted * weight[:, :, None]
    m0 = weight.sum(-1).double()[..., None, None] * torch.eye(3, dtype=torch.float64, device=weight.device)
    m1 = weighted.sum(-1).double()
    m2 = (weighted @ predicted.mT).double()
    matrix = torch.zeros(*m1.shape[:-1], 7, 7, dtype=torch.float64, device=weight.device)
    size = m2.diagonal(dim1=-2, dim2=-1).sum(-1)
    cross = hat(m1)
    matrix[..., :3, :3] = m0
    matrix[..., :3, 3:6] = -cross
    matrix[..., 3:6, :3] = cross
    matrix[..., 3:6, 3:6] = size[..., None, None] * torch.eye(3, dtype=torch.float64, device=weight.device) - m2
    matrix[..., :3, 6] = matrix[..., 6, :3] = m1
    matrix[..., 6, 6] = size
    return matrix


def point_coupling(predicted: torch.Tensor, weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(t, K, 7, n) weight J^T ray: how a pixel's depth and the twist of a slot pull on each other."""
    X, Y, Z = predicted.unbind(2)
    rows = torch.empty(*predicted.shape[:2], 7, predicted.shape[-1], device=predicted.device)
    rows[:, :, 0], rows[:, :, 1], rows[:, :, 2] = x, y, 1.0
    torch.addcmul(Y, Z, y, value=-1.0, out=rows[:, :, 3])  # Y x ray
    torch.addcmul(-X, Z, x, out=rows[:, :, 4])
    torch.addcmul(X * y, Y, x, value=-1.0, out=rows[:, :, 5])
    torch.addcmul(Z, X, x, out=rows[:, :, 6]).addcmul_(Y, y)
    return rows.mul_(-weight[:, :, None])
