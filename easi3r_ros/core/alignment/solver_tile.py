"""Some pixels of some frames with all that speaks of their depth, at given poses: small enough for the CPU's cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment import solver_flow as flow_term
from easi3r_ros.core.alignment import solver_point as point_term
from easi3r_ros.core.alignment.solver_flow import FlowResiduals, FlowTile
from easi3r_ros.core.alignment.solver_observations import Observations
from easi3r_ros.core.alignment.solver_state import State
from easi3r_ros.core.geometry import invert_se3

# Re-weighted least squares gives every residual of a Euclidean norm the curvature 1/|r|. Truly it is 0 along the
# residual and 1/|r| across, and a third of the noise is along it.
CURVATURE = 0.6
SMALLEST_STEP = 0.3  # a depth shrinks at most to this share in one step: it stays positive


@dataclass(frozen=True)
class Weighting:
    """How much the terms count, and what about them is only known from the pass before."""

    distance_floor: float  # world units, below which a distance is taken for zero
    static: bool  # movers take no part in the point term
    flow: torch.Tensor  # (2,) weight of one component of the terms a -> b and b -> a; 0: off
    prior: float  # weight of one pixel's squared change of log depth
    prior_mean: torch.Tensor  # (T, 1) mean change of log depth
    prior_pull: torch.Tensor  # (T, 1) mean of the weighted changes minus their mean


@dataclass(frozen=True)
class Tile:
    """t frames, n pixels each."""

    predicted: torch.Tensor  # (t, K, 3, n) the pairs' points in the frame's camera
    foot: torch.Tensor  # (t, K, n) depth at which the ray comes nearest to them
    miss: torch.Tensor  # (t, K, n) squared distance there
    weight: torch.Tensor  # (t, K, n)
    static: torch.Tensor  # (t, 1, n) share in the point term
    x: torch.Tensor  # (t, 1, n), the ray is (x, y, 1)
    y: torch.Tensor
    ray2: torch.Tensor  # (t, 1, n) its squared length
    distance_floor: float
    flow: FlowTile | None
    prior: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None  # (t, n) weight, log depth, (t, 1) pull


@dataclass(frozen=True)
class Linear:
    """Re-weighted least squares of some pixels at some depth."""

    depth: torch.Tensor  # (t, n)
    distance: torch.Tensor  # (t, K, n)
    weight: torch.Tensor  # (t, K, n) of the squared distance
    flow: FlowResiduals | None
    flow_weight: torch.Tensor | None  # (t, F, 2, n)
    flow_by_depth: torch.Tensor | None
    slope: torch.Tensor  # (t, n) derivative of the objective by depth
    point_stiffness: torch.Tensor  # (t, n) second derivative by depth of the point term as least squares
    other_stiffness: torch.Tensor | float  # of the other terms

    @property
    def step(self) -> torch.Tensor:
        """(t, n) to the least-squares depth."""
        return -self.slope / (self.point_stiffness + self.other_stiffness)

    @property
    def curvature(self) -> torch.Tensor:
        """(t, n) second derivative of the objective by depth."""
        return CURVATURE * self.point_stiffness + self.other_stiffness


def tiles(observations: Observations, state: State, weighting: Weighting, budget: int) -> Iterator[tuple]:
    """((rows, columns), Tile) that cover all pixels, about `budget` slot pixels each."""
    frames, slots = observations.pair.shape
    n = observations.pixels
    rows = min(frames, max(1, budget // (slots * n)))
    cols = min(n, max(1024, budget // slots))
    cameras = _Cameras.of(observations, state)
    for start in range(0, frames, rows):
        for begin in range(0, n, cols):
            part = slice(start, start + rows), slice(begin, begin + cols)
            yield part, _tile(observations, cameras, weighting, *part)


@dataclass(frozen=True)
class _Cameras:
    """What the poses mean for the slots, float32 on the device of the planes."""

    linear: torch.Tensor  # (T, K, 3, 3) camera from pair
    offset: torch.Tensor  # (T, K, 3, 1)
    focal: torch.Tensor  # (T, 1, 1)
    target_from_source: torch.Tensor | None  # (T, F, 4, 4)

    @staticmethod
    def of(observations: Observations, state: State) -> _Cameras:
        device = observations.points.device
        cam_from_world = invert_se3(state.world_from_cam)
        cam_from_pair = (cam_from_world[:, None] @ state.world_from_pair[observations.pair]).float().to(device)
        relative = None
        if observations.flow is not None:
            relative = cam_from_world[observations.flow.target] @ state.world_from_cam[:, None]
            relative = relative.float().to(device)
        focal = state.focals.float().to(device)[:, None, None]
        return _Cameras(cam_from_pair[..., :3, :3], cam_from_pair[..., :3, 3:], focal, relative)


def _tile(o: Observations, cameras: _Cameras, weighting: Weighting, rows: slice, cols: slice) -> Tile:
    x, y = (o.grid[i, cols] / cameras.focal[rows] for i in (0, 1))
    points = o.points[rows, :, :, cols]
    offset, linear = cameras.offset[rows].flatten(0, 1), cameras.linear[rows].flatten(0, 1)
    predicted = torch.baddbmm(offset, linear, points.flatten(0, 1)).unflatten(0, points.shape[:2])
    foot, miss = point_term.foot_points(predicted, x, y)
    movers = o.movers[rows, None, cols]
    return Tile(
        predicted=predicted,
        foot=foot,
        miss=miss,
        weight=o.weight[rows, :, cols],
        static=1.0 - movers if weighting.static else torch.ones_like(movers),
        x=x,
        y=y,
        ray2=x * x + y * y + 1.0,
        distance_floor=weighting.distance_floor,
        flow=None if o.flow is None else _flow_tile(o, cameras, weighting, x, y, rows, cols),
        prior=_prior(o, weighting, rows, cols) if weighting.prior else None,
    )


def _flow_tile(o, cameras, weighting, x, y, rows, cols) -> FlowTile:
    relative = cameras.target_from_source[rows]
    rays = torch.cat([x, y, torch.ones_like(x)], 1)[:, None]  # (t, 1, 3, n)
    focal = cameras.focal[o.flow.target[rows], 0]  # (t, F, 1)
    focal = torch.stack([focal, focal * o.aspect], 2)
    start = o.grid[:, cols] * o.grid.new_tensor([1.0, o.aspect])[:, None]
    share = (o.flow.roles[rows].to(weighting.flow) @ weighting.flow)[..., None, None]
    return FlowTile(
        turned=relative[..., :3, :3] @ rays,
        forward=relative[..., :3, 2:3],
        offset=relative[..., :3, 3:],
        focal=focal,
        end=o.flow.vectors[rows, :, :, cols] + start,
        static=(1.0 - o.movers[rows, cols])[:, None, None],
        roles=o.flow.roles[rows],
        share=share.to(focal),
    )


def _prior(o, weighting, rows, cols):
    weight = 2.0 * weighting.prior * (1.0 + o.movers[rows, cols])
    mean, pull = weighting.prior_mean[rows], 2.0 * weighting.prior * weighting.prior_pull[rows]
    return weight, o.initial_log_depth[rows, cols] + mean, pull


def first_depth(tile: Tile) -> torch.Tensor:
    """(t, n) where the rays come nearest to the pairs' points, in the mean."""
    mean = (tile.weight * tile.foot).sum(1) / tile.weight.sum(1)
    return mean.clamp(min=100 * tile.distance_floor)


def settle(tile: Tile, depth: torch.Tensor, iterations: int) -> torch.Tensor:
    """(t, n) depth of least objective at the given poses: closed form for given weights, re-weighted."""
    for _ in range(iterations):
        linear = linearise(tile, depth)
        depth = torch.maximum(depth - linear.slope / linear.curvature, SMALLEST_STEP * depth)
    return depth


def linearise(tile: Tile, depth: torch.Tensor, tail: float = 1.0) -> Linear:
    off = depth[:, None] - tile.foot
    distance = torch.addcmul(tile.miss, off * off, tile.ray2).add_(tile.distance_floor**2).sqrt_()
    weight = tile.weight / distance
    slope = tile.ray2[:, 0] * (weight * off).sum(1)
    point_stiffness = tile.ray2[:, 0] * weight.sum(1)
    stiffness = 0.0
    flow = flow_weight = by_depth = None
    if tile.flow is not None:
        flow = flow_term.residuals(tile.flow, depth)
        flow_weight = flow_term.weights(tile.flow, flow, tail)
        by_depth = flow_term.by_depth(tile.flow, flow)
        pull = flow_weight * by_depth
        slope = slope + (pull * flow.residual).sum((1, 2))
        stiffness = stiffness + (pull * by_depth).sum((1, 2))
    if tile.prior is not None:
        strength, log_depth, constant = tile.prior
        slope = slope + (strength * (depth.log() - log_depth) - constant) / depth
        stiffness = stiffness + strength / depth.square()
    return Linear(depth, distance, weight, flow, flow_weight, by_depth, slope, point_stiffness, stiffness)
