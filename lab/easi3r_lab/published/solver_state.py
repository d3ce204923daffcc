"""What the solver varies, and what it sees.

The unknowns other than depth, in double precision, and their published form. Pixel planes in the order of the frames, a
frame's pixels beside all that speaks of them: T frames of n pixels; K slots per frame (its views in pairs), F flow
slots (frames that its pixels have a flow to). Frames with fewer are padded with slots of weight zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.spatial.transform import Rotation

from easi3r_lab.published import objective as reference
from easi3r_lab.published.objective import Problem
from easi3r_ros.core.geometry import hat, pixel_grid, se3_exp


@dataclass(frozen=True)
class State:
    """float64, on the CPU: a few hundred numbers."""

    world_from_cam: torch.Tensor  # (T, 4, 4) rigid
    world_from_pair: torch.Tensor  # (P, 4, 4) similarities, scale included
    focal: torch.Tensor  # (1,) shared or (T,) pixels, along u

    @property
    def focals(self) -> torch.Tensor:
        return self.focal.expand(len(self.world_from_cam))


def pair_scales(state: State) -> torch.Tensor:
    """(P,) world units per pair unit."""
    return torch.linalg.det(state.world_from_pair[:, :3, :3]).pow(1 / 3)


def retract(state: State, frame_twist: torch.Tensor, log_focal: torch.Tensor, pair_twist: torch.Tensor) -> State:
    """Move by (T, 6) twists in the cameras' axes, (1,) or (T,) focal changes and (P, 7) twists in the world's axes.

    The mean of the pairs' scale changes is taken out: their geometric mean stays what it is (METHOD 7).
    """
    frames = len(frame_twist)
    motion = se3_exp(torch.cat([frame_twist, pair_twist[:, :6]]))
    log_scale = pair_twist[:, 6] - pair_twist[:, 6].mean()
    moved = motion[frames:].clone()
    moved[:, :3, :3] *= log_scale.exp()[:, None, None]
    focal = state.focal * log_focal.exp() if len(log_focal) else state.focal
    return State(state.world_from_cam @ motion[:frames], moved @ state.world_from_pair, focal)


def with_scale(state: State, factor: float) -> State:
    """The same world in other units."""
    frames, pairs = state.world_from_cam.clone(), state.world_from_pair.clone()
    frames[:, :3, 3] *= factor
    pairs[:, :3] *= factor
    return State(frames, pairs, state.focal)


def adjoint(transform: torch.Tensor) -> torch.Tensor:
    """(..., 4, 4) rigid a_from_b -> (..., 7, 7): twist (translation, rotation, log scale) in b's axes -> in a's."""
    rotation, translation = transform[..., :3, :3], transform[..., :3, 3]
    matrix = torch.zeros(*transform.shape[:-2], 7, 7, dtype=transform.dtype)
    matrix[..., :3, :3] = matrix[..., 3:6, 3:6] = rotation
    matrix[..., :3, 3:6] = hat(translation) @ rotation
    matrix[..., :3, 6] = -translation
    matrix[..., 6, 6] = 1.0
    return matrix


def from_parameters(parameters: reference.Parameters) -> State:
    """One focal length per frame."""
    rotation, translation = reference.poses(parameters.frame_poses.double().cpu())
    frames = _matrices(rotation, translation)
    rotation, translation = reference.poses(parameters.pair_poses.double().cpu())
    scale = reference.pair_scales(parameters.pair_poses.double().cpu())[:, None]
    pairs = _matrices(rotation * scale[..., None], translation * scale)
    return State(frames, pairs, reference.focal_lengths(parameters).detach().double().cpu())


def to_parameters(state: State, depth: torch.Tensor) -> reference.Parameters:
    """As published, float32. depth: (T, h, w)."""
    scale = pair_scales(state)
    raw = _raw(
        state.world_from_pair[:, :3, :3] / scale[:, None, None], state.world_from_pair[:, :3, 3] / scale[:, None]
    )
    parts = (
        torch.cat([raw, scale.log()[:, None]], 1),
        _raw(state.world_from_cam[:, :3, :3], state.world_from_cam[:, :3, 3]),
        reference.FOCAL_SCALE * state.focal.log()[:, None],
    )
    return reference.Parameters(*(part.float().to(depth.device) for part in parts), depth.log())


def _raw(rotation: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    quaternion = torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_quat())
    return torch.cat([quaternion, translation.sign() * torch.log1p(translation.abs())], 1)


def _matrices(linear: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    matrix = torch.eye(4, dtype=linear.dtype).repeat(len(linear), 1, 1)
    matrix[:, :3, :3] = linear
    matrix[:, :3, 3] = translation
    return matrix


WEIGHT_FLOOR = 1e-6  # of log(conf): a pixel about which every pair is unsure still gets a depth


@dataclass(frozen=True)
class FlowObservations:
    vectors: torch.Tensor  # (T, F, 2, n) pixels
    target: torch.Tensor  # (T, F) int64 frame, on the CPU
    roles: torch.Tensor  # (T, F, 2) float32, on the CPU: how often a slot counts in the terms a -> b and b -> a


@dataclass(frozen=True)
class Observations:
    points: torch.Tensor  # (T, K, 3, n) float32 pointmaps, in the camera and the unit of their pair
    weight: torch.Tensor  # (T, K, n) log(conf), divided so that sum(weight * distance) is the published mean
    pair: torch.Tensor  # (T, K) int64, on the CPU
    slots: tuple[int, ...]  # (T,) slots in use, the first ones of K
    movers: torch.Tensor  # (T, n) float32, 1 on movers
    grid: torch.Tensor  # (2, n) pixels minus the principal point, v divided by `aspect`
    aspect: float  # fy / fx
    flow: FlowObservations | None
    shape: tuple[int, int]  # (h, w) of these planes
    share: float = 1.0  # pixels of the images per pixel here

    @property
    def pixels(self) -> int:
        return self.grid.shape[1]

    @property
    def flows(self) -> int:
        return 0 if self.flow is None else self.flow.target.shape[1]


def observe(problem: Problem, principal: tuple[float, float], aspect: float, with_flow: bool) -> Observations:
    """Planes of `problem`. principal: (cx, cy) in pixels. Raises ValueError if a frame is in no pair."""
    frames, height, width = problem.masks.shape
    slot, slots = _slots(problem.edges.T.flatten().cpu(), frames)
    pairs = len(problem.edges)
    device = problem.points_a.device
    points = torch.zeros(frames * slots, 3, height * width, device=device)
    weight = torch.zeros(frames * slots, height * width, device=device)
    views = ((problem.points_a, problem.conf_a), (problem.points_b, problem.conf_b))
    for own, (pointmaps, conf) in zip(slot.to(device).split(pairs), views, strict=True):
        points.index_copy_(0, own, pointmaps.float().flatten(1, 2).mT)
        weight.index_copy_(0, own, conf.float().flatten(1).log() + WEIGHT_FLOOR)
    if not bool(torch.isfinite(points.sum() + weight.sum())):
        known = torch.isfinite(points).all(1) & torch.isfinite(weight)
        points, weight = torch.where(known[:, None], points, 0.0), torch.where(known, weight, 0.0)
    grid = pixel_grid(height, width, device).flatten(0, 1).T - points.new_tensor(principal)[:, None]
    return Observations(
        points=points.unflatten(0, (frames, slots)),
        weight=weight.div_(pairs * height * width).unflatten(0, (frames, slots)),
        pair=torch.zeros(frames * slots, dtype=torch.int64)
        .index_copy_(0, slot, torch.arange(pairs).repeat(2))
        .unflatten(0, (frames, slots)),
        slots=tuple(torch.bincount(slot // slots, minlength=frames).tolist()),
        movers=problem.masks.flatten(1).float(),
        grid=grid / grid.new_tensor([1.0, aspect])[:, None],
        aspect=aspect,
        flow=_observe_flow(problem) if with_flow else None,
        shape=(height, width),
    )


def thin(planes: torch.Tensor, shape: tuple[int, int], stride: int) -> torch.Tensor:
    """(..., h * w) -> (..., n): every `stride`-th pixel in both directions. shape: (h, w)."""
    step = slice(stride // 2, None, stride)
    return planes.unflatten(-1, shape)[..., step, step].flatten(-2).contiguous()


def subsample(observations: Observations, stride: int) -> Observations:
    """Every `stride`-th pixel in both directions, with weights scaled up so that the terms keep their size."""
    if stride == 1:
        return observations
    shape, flow = observations.shape, observations.flow
    grid = thin(observations.grid, shape, stride)
    share = observations.pixels / grid.shape[1]
    return replace(
        observations,
        points=thin(observations.points, shape, stride),
        weight=thin(observations.weight, shape, stride) * share,
        movers=thin(observations.movers, shape, stride),
        grid=grid,
        flow=None if flow is None else replace(flow, vectors=thin(flow.vectors, shape, stride)),
        shape=tuple(len(range(stride // 2, side, stride)) for side in shape),
        share=share,
    )


def _slots(frame: torch.Tensor, frames: int) -> tuple[torch.Tensor, int]:
    """(N,) frame of every view -> (N,) its place in frame-major order, and the places per frame."""
    counts = torch.bincount(frame, minlength=frames)
    if len(counts) > frames or not bool(counts.all()):
        lonely = (counts == 0).nonzero().flatten().tolist()
        raise ValueError(f"every frame must be in a pair and every pair name known frames; in none: {lonely}")
    order = torch.argsort(frame, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(frame)) - (counts.cumsum(0) - counts)[frame[order]]
    slots = int(counts.max())
    return frame * slots + rank, slots


def _observe_flow(problem: Problem) -> FlowObservations:
    """Flow a -> b of a pair and b -> a of the reversed pair are one observation that counts twice."""
    if problem.flow is None or problem.flow_back is None:
        raise ValueError("the flow term is on but there is no flow: set flow_weight to 0 or give both directions")
    edges = [tuple(edge) for edge in problem.edges.tolist()]
    index = {edge: e for e, edge in enumerate(edges)}
    twin = [index.get((b, a)) for a, b in edges]
    same = [r is not None and torch.equal(problem.flow[e], problem.flow_back[r]) for e, r in enumerate(twin)]
    apart = [r for r, e in enumerate(twin) if e is None or not same[e]]  # backward flows of their own
    frames, pairs = problem.frames, len(edges)
    source = torch.tensor([a for a, _ in edges] + [edges[r][1] for r in apart])
    target = torch.tensor([b for _, b in edges] + [edges[r][0] for r in apart])
    roles = torch.tensor([[1.0, float(both)] for both in same] + [[0.0, 1.0]] * len(apart))
    slot, slots = _slots(source, frames)
    planes = torch.zeros(frames * slots, *problem.flow.shape[1:], device=problem.flow.device)
    planes.index_copy_(0, slot[:pairs].to(planes.device), problem.flow.float())
    planes.index_copy_(0, slot[pairs:].to(planes.device), problem.flow_back[apart].float())
    shape = (frames, slots)
    return FlowObservations(
        vectors=planes.flatten(2).unflatten(0, shape),
        target=torch.zeros(frames * slots, dtype=torch.int64).index_copy_(0, slot, target).unflatten(0, shape),
        roles=torch.zeros(frames * slots, 2).index_copy_(0, slot, roles).unflatten(0, shape),
    )
