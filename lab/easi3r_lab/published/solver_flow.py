"""The flow term: where the camera's motion and a pixel's depth carry it, against the estimated flow (eq. 11).

A pixel of ray (x, y, 1) and depth D is in the target camera at D q, q = turned + offset / D. Per flow slot the target
camera may still move by a twist (translation, rotation) in its own axes, and both cameras may change their log focal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_lab.published.objective import EPSILON, FLOW_CLIP

BEND = 1.0  # pixels: smooth-L1 is quadratic below
NEAR = 1e-4  # of the depth in the source: closer to the target camera, or behind it, a pixel has no flow
TAIL_CURVATURE = 0.1  # of the least-squares weight beyond the bend: the loss is straight there and has none


@dataclass(frozen=True)
class FlowTile:
    """Everything about the flow of some pixels that does not depend on their depth."""

    turned: torch.Tensor  # (t, F, 3, n) rays in the axes of the target camera
    forward: torch.Tensor  # (t, F, 3, 1) optical axis of the source camera, likewise
    offset: torch.Tensor  # (t, F, 3, 1) position of the source camera in the target camera
    focal: torch.Tensor  # (t, F, 2, 1) of the target along u and v, pixels
    end: torch.Tensor  # (t, F, 2, n) where the estimated flow ends: pixels minus the principal point
    static: torch.Tensor  # (t, 1, 1, n) 1 where static
    share: torch.Tensor  # (t, F, 1, 1) weight of one component in the objective
    roles: torch.Tensor  # (t, F, 2) how often a slot counts in the terms a -> b and b -> a


@dataclass(frozen=True)
class FlowLinear:
    """The term around some depth (t, n), as least squares in pixels."""

    depth: torch.Tensor  # (t, n)
    seen: torch.Tensor  # (t, F, 2, n) image coordinates in the target for focal length 1
    inverse_z: torch.Tensor  # (t, F, 1, n) of q
    inverse_depth: torch.Tensor  # (t, 1, 1, n)
    residual: torch.Tensor  # (t, F, 2, n) pixels
    by_depth: torch.Tensor  # (t, F, 2, n) pixels per unit of depth
    weight: torch.Tensor  # (t, F, 2, n)
    kept: torch.Tensor  # (t, F, 2, n) 1: counts
    slope: torch.Tensor  # (t, n) derivative of the term by depth
    stiffness: torch.Tensor  # (t, n) second derivative


def linearise(tile: FlowTile, depth: torch.Tensor) -> FlowLinear:
    inverse_depth = (1.0 / (depth + EPSILON))[:, None, None]
    q = torch.addcmul(tile.turned, inverse_depth, tile.offset)
    z = q[:, :, 2:] + EPSILON
    inverse_z = 1.0 / z.clamp(min=NEAR)
    seen = q[:, :, :2].mul_(inverse_z)
    residual = torch.mul(seen, tile.focal).sub_(tile.end)
    size = residual.abs()
    kept = ((size < FLOW_CLIP + 0.5 * BEND) & (z > NEAR)) * tile.static
    weight = torch.mul(kept, tile.share).div_(size.clamp_(min=BEND))
    slope = -inverse_depth.square() * inverse_z
    by_depth = torch.addcmul(tile.offset[:, :, :2], seen, tile.offset[:, :, 2:], value=-1.0).mul_(slope)
    by_depth.mul_(tile.focal)
    pull = weight * by_depth
    return FlowLinear(
        depth=depth,
        seen=seen,
        inverse_z=inverse_z,
        inverse_depth=inverse_depth,
        residual=residual,
        by_depth=by_depth,
        weight=weight,
        kept=kept,
        slope=(pull * residual).sum((1, 2)),
        stiffness=pull.mul_(by_depth).sum((1, 2)),
    )


def statistics(tile: FlowTile, linear: FlowLinear) -> torch.Tensor:
    """(2, 2) float64: per role, the sum of smooth-L1 and the number of components in it."""
    size = linear.residual.abs()
    bent = size.clamp(max=BEND)
    loss = torch.addcmul(bent * size, bent, bent, value=-0.5).mul_(linear.kept)  # BEND = 1
    sums = torch.stack([loss.sum((2, 3)), linear.kept.sum((2, 3))]).double()  # (2, t, F)
    return torch.einsum("stf,tfr->rs", sums, tile.roles.to(sums))


def gradient(tile: FlowTile, linear: FlowLinear, depth: torch.Tensor) -> torch.Tensor:
    """(t, F, 8) float64 derivative at depth (t, n), linearly from there, by the columns of `columns`."""
    change = (depth - linear.depth)[:, None, None]
    pull = torch.addcmul(linear.residual, linear.by_depth, change).mul_(linear.weight).mul_(tile.focal)
    turn = (linear.seen * pull).sum(2, keepdim=True)
    pulls = torch.cat([pull, turn], 2)  # (t, F, 3, n)
    near = linear.inverse_z * linear.inverse_depth
    planes = torch.cat([near, linear.seen, torch.ones_like(near)], 2)  # (t, F, 4, n)
    near_, x, y, one = (planes @ pulls.mT).double().unbind(2)  # each (t, F, 3): with pull u, pull v, turn
    narrowed = (tile.turned - tile.forward).mul_(linear.inverse_z)
    own = (narrowed * torch.cat([-pull, turn], 2)).sum((2, 3)).double()
    columns = [near_[..., 0], near_[..., 1], -near_[..., 2]]
    columns += [-y[..., 2] - one[..., 1], one[..., 0] + x[..., 2], x[..., 1] - y[..., 0], one[..., 2], own]
    return torch.stack(columns, -1)


def curvature(tile: FlowTile, linear: FlowLinear) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of `columns`: (t, F, 8, 8) float64 second derivative, (t, F, 8, n) with depth; (t, n) of depth alone."""
    by = columns(tile, linear)
    weight = torch.where(linear.residual.abs() < BEND, linear.weight, TAIL_CURVATURE * linear.weight)
    weighted = by * weight[:, :, None]
    normal = (weighted.flatten(3) @ by.flatten(3).mT).double()
    with_depth = (weighted * linear.by_depth[:, :, None]).sum(3)
    return normal, with_depth, (weight * linear.by_depth.square()).sum((1, 2))


def columns(tile: FlowTile, linear: FlowLinear) -> torch.Tensor:
    """(t, F, 8, 2, n) derivative of u, v by the target's twist (6), its log focal, and the source's log focal."""
    x, y = linear.seen.unbind(2)
    near = (linear.inverse_z * linear.inverse_depth)[:, :, 0]
    # A longer focal length of the source narrows its rays: dq = -(turned - forward).
    narrowed = (tile.turned - tile.forward).mul_(linear.inverse_z)
    u_own = torch.addcmul(-narrowed[:, :, 0], x, narrowed[:, :, 2])
    v_own = torch.addcmul(-narrowed[:, :, 1], y, narrowed[:, :, 2])
    zero, xy = torch.zeros_like(x), x * y
    u = [near, zero, -x * near, -xy, 1.0 + x * x, -y, x, u_own]
    v = [zero, near, -y * near, -1.0 - y * y, xy, x, y, v_own]
    return torch.stack([torch.stack(pair, 2) for pair in zip(u, v, strict=True)], 2).mul_(tile.focal[:, :, None])
