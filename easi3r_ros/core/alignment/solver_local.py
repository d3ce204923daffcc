"""Gradient and curvature of the objective in each frame's own coordinates, depth eliminated by the Schur complement.

The L local coordinates of a frame are the twists of its K point slots (7 each: translation, rotation, log scale in the
camera's axes), those of its F flow slots (7 each: twist and log focal of the target camera) and its own log focal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment import solver_flow as flow_term
from easi3r_ros.core.alignment import solver_point as point_term
from easi3r_ros.core.alignment.solver_tile import CURVATURE, Linear, Tile, linearise


@dataclass(frozen=True)
class Sums:
    """What some pixels add to a pass."""

    gradient: torch.Tensor  # (t, L) float64
    point: torch.Tensor  # () float64 the point term
    flow: torch.Tensor  # (2, 2) float64, see solver_flow.statistics
    depth: torch.Tensor  # (t, n)


def gradient(tile: Tile, linear: Linear) -> Sums:
    """Derivative by the local coordinates, at the depth that is best for the linearisation."""
    depth = linear.depth + linear.step
    weight = linear.weight * tile.static
    own = torch.stack([depth * tile.x[:, 0], depth * tile.y[:, 0], depth], 1)[:, None]
    pull = torch.sub(own, tile.predicted).mul_(weight[:, :, None])
    parts = [point_term.gradient(tile.predicted, pull).flatten(1)]
    # A longer focal length narrows the rays.
    focal = -(pull[:, :, :2].sum(1) * own[:, 0, :2]).sum((1, 2)).double()
    statistics = torch.zeros(2, 2, dtype=torch.float64)
    if tile.flow is not None:
        columns = flow_term.columns(tile.flow, linear.flow)
        residual = linear.flow.residual + linear.flow_by_depth * linear.step[:, None, None]
        pulled = (linear.flow_weight * residual).flatten(2)[..., None]  # (t, F, 2n, 1)
        flow = (columns.flatten(3) @ pulled)[..., 0].double()  # (t, F, 8)
        parts.append(flow[..., :7].flatten(1))
        focal = focal + flow[..., 7].sum(1)
        statistics = flow_term.statistics(tile.flow, linear.flow)
    point = (tile.weight * linear.distance * tile.static).sum().double()
    return Sums(torch.cat([*parts, focal[:, None]], 1), point, statistics, depth)


@dataclass(frozen=True)
class Curvature:
    matrix: torch.Tensor  # (t, L, L) float64
    coupling: torch.Tensor  # (t, L, n)
    stiffness: torch.Tensor  # (t, n)

    def depth_step(self, local_step: torch.Tensor) -> torch.Tensor:
        """(t, n) what a step (t, L) of the local coordinates does to the best depth."""
        return -torch.einsum("tl,tln->tn", local_step.to(self.coupling), self.coupling) / self.stiffness


def curvature(tile: Tile, depth: torch.Tensor) -> Curvature:
    linear = linearise(tile, depth, flow_term.TAIL_CURVATURE)
    weight = CURVATURE * linear.weight * tile.static
    slots = tile.foot.shape[1]
    flows = 0 if tile.flow is None else tile.flow.share.shape[1]
    size = 7 * (slots + flows) + 1
    matrix = torch.zeros(len(depth), size, size, dtype=torch.float64, device=depth.device)
    rows = torch.zeros(len(depth), size, depth.shape[1], device=depth.device)
    own = -torch.stack([depth * tile.x[:, 0], depth * tile.y[:, 0], torch.zeros_like(depth)], 1)  # by log focal
    _put_slots(matrix, 0, point_term.normal(tile.predicted, weight))
    _put_focal(matrix, 0, point_term.gradient(tile.predicted, weight[:, :, None] * own[:, None]))
    rows[:, : 7 * slots] = point_term.coupling(tile.predicted, weight, tile.x, tile.y).flatten(1, 2)
    total = weight.sum(1)
    matrix[:, -1, -1] = (total * own.square().sum(1)).sum(1)
    rows[:, -1] = -depth * total * (tile.ray2[:, 0] - 1.0)
    if tile.flow is not None:
        columns = flow_term.columns(tile.flow, linear.flow)
        weighted = columns * linear.flow_weight[:, :, None]
        normal = (weighted.flatten(3) @ columns.flatten(3).mT).double()  # (t, F, 8, 8)
        _put_slots(matrix, slots, normal[..., :7, :7])
        _put_focal(matrix, slots, normal[..., :7, 7])
        matrix[:, -1, -1] += normal[..., 7, 7].sum(1)
        pull = (weighted * linear.flow_by_depth[:, :, None]).sum(3)  # (t, F, 8, n)
        rows[:, 7 * slots : -1] = pull[:, :, :7].flatten(1, 2)
        rows[:, -1] += pull[:, :, 7].sum(1)
    scaled = rows * linear.curvature.rsqrt()[:, None]
    return Curvature(matrix - (scaled @ scaled.mT).double(), rows, linear.curvature)


def _put_slots(matrix: torch.Tensor, first: int, blocks: torch.Tensor) -> None:
    for k in range(blocks.shape[1]):
        at = slice(7 * (first + k), 7 * (first + k + 1))
        matrix[:, at, at] = blocks[:, k]


def _put_focal(matrix: torch.Tensor, first: int, cross: torch.Tensor) -> None:
    at = slice(7 * first, 7 * (first + cross.shape[1]))
    matrix[:, at, -1] = matrix[:, -1, at] = cross.flatten(1)
