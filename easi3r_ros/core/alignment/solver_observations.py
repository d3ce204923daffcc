"""What the solver sees: pixel planes ordered by frame, so that one frame's pixels and all that speaks of them lie together.

T frames of n pixels; K slots per frame (the views of its pairs), F flow slots (the frames its pixels flow to). Frames
with fewer are padded with slots of weight zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from easi3r_ros.core.alignment.reference import Problem
from easi3r_ros.core.geometry import pixel_grid

WEIGHT_FLOOR = 1e-6  # a pixel about which every pair is unsure (log conf = 0) still gets a depth


@dataclass(frozen=True)
class FlowObservations:
    vectors: torch.Tensor  # (T, F, 2, n) pixels
    target: torch.Tensor  # (T, F) int64 frame
    roles: torch.Tensor  # (T, F, 2) how often this flow counts in the terms a -> b and b -> a


@dataclass(frozen=True)
class Observations:
    points: torch.Tensor  # (T, K, 3, n) float32 pointmaps, in the frame and the unit of their pair
    weight: torch.Tensor  # (T, K, n) log(conf), divided so that sum(weight * distance) is the published mean
    pair: torch.Tensor  # (T, K) int64
    movers: torch.Tensor  # (T, n) float32, 1 on movers
    grid: torch.Tensor  # (2, n) pixels minus the principal point; v in units of u's focal length
    aspect: float  # fy / fx
    flow: FlowObservations | None
    initial_log_depth: torch.Tensor | None  # (T, n), what the depth prior pulls to
    shape: tuple[int, int]  # (h, w) of these planes
    full_pixels: int  # h * w of the images

    @property
    def pixels(self) -> int:
        return self.grid.shape[1]


def observe(
    problem: Problem, K: torch.Tensor, with_flow: bool, initial_log_depth: torch.Tensor | None = None
) -> Observations:
    """Planes of `problem`. K: (3, 3) float64; only aspect ratio and principal point count here."""
    frames, height, width = problem.masks.shape
    slots = _slots([problem.edges[:, 0].tolist(), problem.edges[:, 1].tolist()], frames)
    K_slots = max(len(own) for own in slots)
    device = problem.points_a.device
    points = torch.zeros(frames * K_slots, 3, height * width, device=device)
    weight = torch.zeros(frames * K_slots, height * width, device=device)
    pair = torch.zeros(frames * K_slots, dtype=torch.int64)
    views = ((problem.points_a, problem.conf_a), (problem.points_b, problem.conf_b))
    for role, (pointmaps, conf) in enumerate(views):
        found = [(n * K_slots + k, e) for n, own in enumerate(slots) for k, (r, e) in enumerate(own) if r == role]
        row, source = (torch.tensor(column, device=device) for column in zip(*found, strict=True))
        in_order = torch.argsort(source)
        row = row[in_order]
        points.index_copy_(0, row, pointmaps.float().flatten(1, 2).mT)
        weight.index_copy_(0, row, conf.float().flatten(1).log())
        pair[row.cpu()] = source[in_order].cpu()
    bad = not bool(torch.isfinite(points.sum() + weight.sum()))
    if bad:
        finite = torch.isfinite(points).all(1) & torch.isfinite(weight)
        points = torch.where(finite[:, None], points, 0.0)
        weight = torch.where(finite, weight, 0.0)
    weight.add_(WEIGHT_FLOOR).div_(len(problem.edges) * height * width)
    used = torch.tensor([[k < len(own) for k in range(K_slots)] for own in slots], device=device)
    aspect = float(K[1, 1] / K[0, 0])
    grid = (pixel_grid(height, width, device) - K[:2, 2].to(device, torch.float32)).flatten(0, 1).T
    return Observations(
        points=points.unflatten(0, (frames, K_slots)),
        weight=weight.unflatten(0, (frames, K_slots)) * used[..., None],
        pair=pair.unflatten(0, (frames, K_slots)),
        movers=problem.masks.flatten(1).float(),
        grid=torch.stack([grid[0], grid[1] / aspect]),
        aspect=aspect,
        flow=_observe_flow(problem) if with_flow else None,
        initial_log_depth=None if initial_log_depth is None else initial_log_depth.flatten(1).float(),
        shape=(height, width),
        full_pixels=height * width,
    )


def subsample(observations: Observations, stride: int) -> Observations:
    """Every `stride`-th pixel in both directions, with weights scaled up so that the terms keep their size."""
    if stride == 1:
        return observations
    height, width = observations.shape
    step = slice(stride // 2, None, stride)

    def thin(planes: torch.Tensor) -> torch.Tensor:
        return planes.unflatten(-1, (height, width))[..., step, step].flatten(-2).contiguous()

    shape = (len(range(height)[step]), len(range(width)[step]))
    share = height * width / (shape[0] * shape[1])
    flow, depth = observations.flow, observations.initial_log_depth
    return replace(
        observations,
        points=thin(observations.points),
        weight=thin(observations.weight) * share,
        movers=thin(observations.movers),
        grid=thin(observations.grid),
        flow=None if flow is None else replace(flow, vectors=thin(flow.vectors)),
        initial_log_depth=None if depth is None else thin(depth),
        shape=shape,
    )


def _slots(roles: list[list[int]], frames: int) -> list[list[tuple[int, int]]]:
    """Per frame: (role, pair) of every view of it."""
    slots: list[list[tuple[int, int]]] = [[] for _ in range(frames)]
    for role, members in enumerate(roles):
        for e, n in enumerate(members):
            slots[n].append((role, e))
    return slots


def _observe_flow(problem: Problem) -> FlowObservations:
    """Flow a -> b of a pair and b -> a of the reverse pair are the same observation: kept once, counted twice."""
    frames = problem.frames
    found: list[dict[int, list]] = [{} for _ in range(frames)]
    extra: list[list] = [[] for _ in range(frames)]
    for role, vectors in enumerate((problem.flow, problem.flow_back)):
        for e, edge in enumerate(problem.edges.tolist()):
            source, target = edge if role == 0 else edge[::-1]
            known = found[source].get(target)
            if known is not None and torch.equal(known[1], vectors[e]):
                known[2][role] += 1
                continue
            entry = [target, vectors[e], [role == 0, role == 1]]
            found[source].setdefault(target, entry)
            extra[source].append(entry)
    F = max(len(own) for own in extra)
    height, width = problem.masks.shape[1:]
    planes = torch.zeros(frames, F, 2, height * width, device=problem.points_a.device)
    target = torch.zeros(frames, F, dtype=torch.int64)
    roles = torch.zeros(frames, F, 2)
    for n, own in enumerate(extra):
        for k, (m, vectors, counts) in enumerate(own):
            planes[n, k] = vectors.flatten(1)
            target[n, k] = m
            roles[n, k] = torch.tensor(counts, dtype=torch.float32)
    return FlowObservations(planes, target, roles)
