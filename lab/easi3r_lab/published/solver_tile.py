"""Some pixels of some frames and all that speaks of their depth, at given poses: small enough for the CPU's cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from easi3r_lab.published.solver_flow import FlowLinear, FlowTile
from easi3r_lab.published.solver_state import Observations, State
from easi3r_ros.core.geometry import invert_se3

# A Euclidean norm has the curvature 1/|r| across its residual and none along it; least squares re-weighted by 1/|r|
# has it in all directions and under-estimates every step. This share of it converges fastest.
CURVATURE = 0.6
SMALLEST_RATIO = 0.3  # of a depth to the one before: it stays positive
CPU_TILE, GPU_TILE = 1 << 16, 1 << 24  # slot pixels; a frame is not divided below twice that

Part = tuple[slice, slice]  # frames, pixels


@dataclass(frozen=True)
class DepthPrior:
    """Pulls log depth to what it was in the beginning; the frame's mean change is free, and known from before."""

    weight: float  # of one pixel's squared change
    log_depth: torch.Tensor  # (T, n)
    mean: torch.Tensor  # (T, 1) mean change
    pull: torch.Tensor  # (T, 1) mean of (1 + mask) * (change - mean)


@dataclass(frozen=True)
class Weighting:
    """How much the terms count."""

    static: bool  # movers take no part in the point term
    distance_floor: float  # world units below which a distance counts as none
    flow: torch.Tensor  # (2,) float64 weight of a component in the terms a -> b and b -> a; 0: off
    prior: DepthPrior | None


@dataclass(frozen=True)
class PixelTile:
    """t frames, n pixels each. A ray is (x, y, 1)."""

    predicted: torch.Tensor  # (t, K, 3, n) the pairs' points in the frame's camera
    foot: torch.Tensor  # (t, K, n) depth at which the ray comes nearest to them
    miss: torch.Tensor  # (t, K, n) squared distance there, never quite zero
    weight: torch.Tensor  # (t, K, n)
    static: torch.Tensor | None  # (t, 1, n) share in the point term; None: all
    x: torch.Tensor  # (t, 1, n)
    y: torch.Tensor  # (t, 1, n)
    ray2: torch.Tensor  # (t, 1, n) squared length of the ray
    distance_floor: float
    flow: FlowTile | None
    prior: DepthPrior | None
    prior_weight: torch.Tensor | None  # (t, n)


@dataclass(frozen=True)
class Linear:
    """The objective of every pixel around some depth, as least squares."""

    depth: torch.Tensor  # (t, n)
    squared: torch.Tensor  # (t, K, n) distance
    weight: torch.Tensor  # (t, K, n) of the squared distance
    slope: torch.Tensor  # (t, n) derivative by depth
    point_stiffness: torch.Tensor  # (t, n) second derivative by depth of the point term
    other_stiffness: torch.Tensor | float  # of the others

    def least_squares_depth(self) -> torch.Tensor:
        return self.depth - self.slope / (self.point_stiffness + self.other_stiffness)

    def better_depth(self) -> torch.Tensor:
        step = self.slope / (CURVATURE * self.point_stiffness + self.other_stiffness)
        return torch.maximum(self.depth - step, SMALLEST_RATIO * self.depth)


def tiles(observations: Observations, state: State, weighting: Weighting) -> Iterator[tuple[Part, PixelTile]]:
    """Tiles that together cover all pixels."""
    frames, slots = observations.pair.shape
    n = observations.pixels
    budget = GPU_TILE if observations.points.is_cuda else CPU_TILE
    rows = max(1, budget // (slots * n))
    columns = -(-n // -(-slots * n // (2 * budget))) if rows == 1 else n
    cameras = _cameras(observations, state)
    for row in range(0, frames, rows):
        for column in range(0, n, columns):
            part = slice(row, row + rows), slice(column, column + columns)
            yield part, _tile(observations, cameras, weighting, part)


@dataclass(frozen=True)
class _Cameras:
    """What the poses mean for the slots, float32 on the device of the planes."""

    linear: torch.Tensor  # (T, K, 3, 3) camera from pair
    offset: torch.Tensor  # (T, K, 3, 1)
    focal: torch.Tensor  # (T, 1, 1)
    target_from_source: torch.Tensor | None  # (T, F, 4, 4)


def _cameras(observations: Observations, state: State) -> _Cameras:
    device = observations.points.device
    cam_from_world = invert_se3(state.world_from_cam)
    cam_from_pair = (cam_from_world[:, None] @ state.world_from_pair[observations.pair]).float().to(device)
    relative = None
    if observations.flow is not None:
        relative = cam_from_world[observations.flow.target] @ state.world_from_cam[:, None]
        relative = relative.float().to(device)
    focal = state.focals.float().to(device)[:, None, None]
    return _Cameras(cam_from_pair[..., :3, :3], cam_from_pair[..., :3, 3:], focal, relative)


def _tile(o: Observations, cameras: _Cameras, weighting: Weighting, part: Part) -> PixelTile:
    rows, columns = part
    x, y = (o.grid[i, columns] / cameras.focal[rows] for i in (0, 1))
    used = max(o.slots[rows])
    points = o.points[rows, :used, :, columns]
    offset, linear = cameras.offset[rows, :used].flatten(0, 1), cameras.linear[rows, :used].flatten(0, 1)
    predicted = torch.baddbmm(offset, linear, points.flatten(0, 1)).unflatten(0, points.shape[:2])
    ray2 = torch.addcmul(x * x + 1.0, y, y)
    foot, miss = foot_points(predicted, x, y, ray2)
    miss.add_(weighting.distance_floor**2)
    movers = o.movers[rows, columns]
    return PixelTile(
        predicted=predicted,
        foot=foot,
        miss=miss,
        weight=o.weight[rows, :used, columns],
        static=(1.0 - movers)[:, None] if weighting.static else None,
        x=x,
        y=y,
        ray2=ray2,
        distance_floor=weighting.distance_floor,
        flow=None if o.flow is None else _flow_tile(o, cameras, weighting, x, y, part),
        prior=None if weighting.prior is None else _prior_of(weighting.prior, part),
        prior_weight=None if weighting.prior is None else 2.0 * weighting.prior.weight * (1.0 + movers),
    )


def _flow_tile(
    o: Observations, cameras: _Cameras, weighting: Weighting, x: torch.Tensor, y: torch.Tensor, part: Part
) -> FlowTile:
    rows, columns = part
    relative = cameras.target_from_source[rows]
    rays = torch.cat([x, y, torch.ones_like(x)], 1)[:, None]  # (t, 1, 3, n)
    focal = cameras.focal[o.flow.target[rows], 0]  # (t, F, 1)
    start = o.grid[:, columns] * o.grid.new_tensor([1.0, o.aspect])[:, None]
    share = o.flow.roles[rows].double() @ weighting.flow  # (t, F)
    return FlowTile(
        turned=relative[..., :3, :3] @ rays,
        forward=relative[..., :3, 2:3],
        offset=relative[..., :3, 3:],
        focal=torch.stack([focal, focal * o.aspect], 2),
        end=o.flow.vectors[rows, :, :, columns] + start,
        static=(1.0 - o.movers[rows, columns])[:, None, None],
        share=share.to(focal)[..., None, None],
        roles=o.flow.roles[rows],
    )


def _prior_of(prior: DepthPrior, part: Part) -> DepthPrior:
    rows, columns = part
    return DepthPrior(prior.weight, prior.log_depth[rows, columns], prior.mean[rows], prior.pull[rows])


def counting(tile: PixelTile, weight: torch.Tensor) -> torch.Tensor:
    """(t, K, n) weights of pixels that count for the poses: every pixel has a depth, movers may have no say."""
    return weight if tile.static is None else weight * tile.static


def first_depth(tile: PixelTile) -> torch.Tensor:
    """(t, n) mean depth at which the rays come nearest to the pairs' points."""
    return ((tile.weight * tile.foot).sum(1) / tile.weight.sum(1)).clamp(min=tile.distance_floor)


def settle(tile: PixelTile, depth: torch.Tensor, flow: FlowLinear | None, sweeps: int) -> torch.Tensor:
    """(t, n) depth of least objective at the given poses: closed form for given weights, re-weighted `sweeps` times."""
    for _ in range(sweeps):
        depth = linearise(tile, depth, flow).better_depth()
    return depth


def snap(tile: PixelTile, depth: torch.Tensor, flow: FlowLinear | None) -> torch.Tensor:
    """(t, n) the best of depth and the feet next to it.

    Where pairs disagree along the ray only, the objective has corners there, which re-weighting hardly ever reaches.
    """
    off = depth[:, None] - tile.foot
    below = torch.where(off >= 0, tile.foot, -torch.inf).amax(1)
    above = torch.where(off <= 0, tile.foot, torch.inf).amin(1)
    smallest, best = _cost(tile, depth, flow), depth
    for candidate in (below, above):
        near = torch.where((candidate > 0.5 * depth) & (candidate < 2.0 * depth), candidate, depth)
        cost = _cost(tile, near, flow)
        best = torch.where(cost < smallest, near, best)
        smallest = torch.minimum(cost, smallest)
    return best


def _cost(tile: PixelTile, depth: torch.Tensor, flow: FlowLinear | None) -> torch.Tensor:
    """(t, n) objective of every pixel, whose derivative `linearise` has."""
    off = depth[:, None] - tile.foot
    cost = torch.addcmul(tile.miss, off.square_(), tile.ray2).sqrt_().mul_(tile.weight).sum(1)
    if flow is not None:
        change = depth - flow.depth
        cost = cost + change * (flow.slope + 0.5 * flow.stiffness * change)
    if tile.prior is not None:
        prior, log_depth = tile.prior, depth.log()
        change = log_depth - prior.log_depth - prior.mean
        cost = cost + 0.5 * tile.prior_weight * change.square() - 2.0 * prior.weight * prior.pull * log_depth
    return cost


def linearise(tile: PixelTile, depth: torch.Tensor, flow: FlowLinear | None) -> Linear:
    """Around depth (t, n); the flow term may be linear around another depth nearby."""
    off = depth[:, None] - tile.foot
    squared = torch.addcmul(tile.miss, off * off, tile.ray2)
    weight = torch.rsqrt(squared).mul_(tile.weight)
    slope = tile.ray2[:, 0] * off.mul_(weight).sum(1)
    point_stiffness = tile.ray2[:, 0] * weight.sum(1)
    stiffness = 0.0
    if flow is not None:
        slope = slope + flow.slope + flow.stiffness * (depth - flow.depth)
        stiffness = flow.stiffness
    if tile.prior is not None:
        prior = tile.prior
        change = depth.log() - prior.log_depth - prior.mean
        slope = slope + (tile.prior_weight * change - 2.0 * prior.weight * prior.pull) / depth
        stiffness = stiffness + tile.prior_weight / depth.square()
    return Linear(depth, squared, weight, slope, point_stiffness, stiffness)


def foot_points(
    predicted: torch.Tensor, x: torch.Tensor, y: torch.Tensor, ray2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth at which a pixel's ray comes nearest to a predicted point, and the squared distance there.

    predicted: (t, K, 3, n); x, y: (t, 1, n), the ray is (x, y, 1); ray2: (t, 1, n) its squared length. Returns twice
    (t, K, n). From these the distance at any depth follows without cancellation.
    """
    X, Y, Z = predicted.unbind(2)
    foot = torch.addcmul(Z, X, x).addcmul_(Y, y).div_(ray2)
    miss = torch.addcmul(X, foot, x, value=-1.0).square_()
    off = torch.addcmul(Y, foot, y, value=-1.0)
    miss.addcmul_(off, off)
    torch.sub(Z, foot, out=off)
    return foot, miss.addcmul_(off, off)
