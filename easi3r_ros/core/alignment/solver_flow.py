"""The flow term: where the camera's motion and a pixel's depth carry it, against the estimated flow (eq. 11).

A pixel of ray (x, y, 1) and depth D is in the target camera at D q, q = turned + offset / D. Per flow slot the target
camera may still move by a twist (translation, rotation) in its own axes, and both cameras may change their log focal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment.reference import EPSILON, FLOW_CLIP

TAIL_CURVATURE = 0.1  # share of a residual's weight that counts as curvature beyond the bend of smooth-L1


@dataclass(frozen=True)
class FlowTile:
    """Everything about the flow of some pixels that does not depend on their depth."""

    turned: torch.Tensor  # (t, F, 3, n) rays in the axes of the target camera
    forward: torch.Tensor  # (t, F, 3, 1) optical axis of the source camera, likewise
    offset: torch.Tensor  # (t, F, 3, 1) position of the source camera in the target camera
    focal: torch.Tensor  # (t, F, 2, 1) of the target along u and v, pixels
    end: torch.Tensor  # (t, F, 2, n) where the estimated flow ends: pixels minus the principal point
    static: torch.Tensor  # (t, 1, 1, n)
    roles: torch.Tensor  # (t, F, 2) how often a slot counts in the terms a -> b and b -> a
    share: torch.Tensor  # (t, F, 1, 1) weight of a pixel in the objective


@dataclass(frozen=True)
class FlowResiduals:
    seen: torch.Tensor  # (t, F, 2, n) image coordinates in the target for focal length 1
    inverse_z: torch.Tensor  # (t, F, 1, n) of q
    inverse_depth: torch.Tensor  # (t, 1, 1, n)
    residual: torch.Tensor  # (t, F, 2, n) pixels
    kept: torch.Tensor  # (t, F, 2, n) 1: counts


def residuals(tile: FlowTile, depth: torch.Tensor) -> FlowResiduals:
    """At depth (t, n)."""
    inverse_depth = (1.0 / (depth + EPSILON))[:, None, None]
    q = torch.addcmul(tile.turned, inverse_depth, tile.offset)
    inverse_z = 1.0 / (q[:, :, 2:] + EPSILON)
    seen = q[:, :, :2] * inverse_z
    residual = torch.addcmul(-tile.end, seen, tile.focal)
    kept = (residual.abs() < FLOW_CLIP + 0.5) & (q[:, :, 2:] > 0)
    return FlowResiduals(seen, inverse_z, inverse_depth, residual, kept * tile.static)


def by_depth(tile: FlowTile, r: FlowResiduals) -> torch.Tensor:
    """(t, F, 2, n) pixels per unit of depth."""
    slope = -r.inverse_depth.square() * r.inverse_z
    return torch.addcmul(tile.offset[:, :, :2], r.seen, tile.offset[:, :, 2:], value=-1.0).mul_(slope).mul_(tile.focal)


def weights(tile: FlowTile, r: FlowResiduals, tail: float = 1.0) -> torch.Tensor:
    """(t, F, 2, n) of smooth-L1 (beta 1) as re-weighted least squares; tail scales those beyond the bend."""
    size = r.residual.abs()
    return torch.where(size < 1.0, 1.0, tail / size.clamp_(min=1.0)) * r.kept * tile.share


def statistics(tile: FlowTile, r: FlowResiduals) -> torch.Tensor:
    """(2, 2) float64: per role, the sum of smooth-L1 and the number of components in it."""
    loss = torch.nn.functional.smooth_l1_loss(r.residual, torch.zeros_like(r.residual), reduction="none")
    sums = torch.stack([(loss * r.kept).sum((2, 3)), r.kept.sum((2, 3))])  # (2, t, F)
    return torch.einsum("stf,tfr->rs", sums.double(), tile.roles.double())


def columns(tile: FlowTile, r: FlowResiduals) -> torch.Tensor:
    """(t, F, 8, 2, n) derivative of the pixels by the target's twist (6), its log focal, and the source's log focal."""
    px, py = r.seen.unbind(2)
    iz = r.inverse_z[:, :, 0] * r.inverse_depth[:, :, 0]
    # A longer focal length of the source narrows its rays: dq = -(turned - forward).
    narrowed = (tile.turned - tile.forward).mul_(-r.inverse_z)
    u_own = torch.addcmul(narrowed[:, :, 0], px, narrowed[:, :, 2], value=-1.0)
    v_own = torch.addcmul(narrowed[:, :, 1], py, narrowed[:, :, 2], value=-1.0)
    zero, xy = torch.zeros_like(px), px * py
    u = [iz, zero, -px * iz, -xy, 1.0 + px * px, -py, px, u_own]
    v = [zero, iz, -py * iz, -1.0 - py * py, xy, px, py, v_own]
    return torch.stack([torch.stack(pair, 2) for pair in zip(u, v, strict=True)], 2).mul_(tile.focal[:, :, None])
