"""Where the alignment starts: frames strung together along the most confident pairs (METHOD 7)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from easi3r_lab.published.objective import GEOMETRIC_MEAN_SCALE, Problem
from easi3r_lab.published.solver_state import State, pair_scales, with_scale
from easi3r_ros.core.geometry import (
    focal_from_pointmap,
    intrinsics,
    invert_se3,
    pixel_grid,
    transform,
    weighted_procrustes,
)

MOVER_WEIGHT = 1e-3  # of a static pixel: a view full of movers still gives some pose
SHARED_FOCALS = 3  # frames that a shared focal length is estimated from
PNP_CONFIDENCE = 2.5  # pixels below take no part, where enough are above
PNP_FEWEST = 12
PNP_ITERATIONS, PNP_PIXELS = 10, 5.0  # of RANSAC


@dataclass(frozen=True)
class Start:
    state: State  # one focal length per frame; world: the camera of the first tree edge's first frame
    points: torch.Tensor  # (T, h', w', 3) float32 world points of every frame, at every `stride`-th pixel
    tree: list[tuple[int, int]]  # edges in the order in which they were attached

    @property
    def depth(self) -> torch.Tensor:
        """(T, h', w') float32"""
        row = invert_se3(self.state.world_from_cam)[:, 2].to(self.points)  # (T, 4)
        return (self.points * row[:, None, None, :3]).sum(-1) + row[:, 3, None, None]


def string_together(
    problem: Problem,
    stride: int = 1,
    K: np.ndarray | None = None,
    static_weighting: bool = False,
    shared_focal: bool = False,
) -> Start:
    """Poses, focal lengths and pair scales to start from, using every `stride`-th pixel in both directions.

    K: (3, 3) known intrinsics. static_weighting: movers hardly count (not published). shared_focal: all frames have
    the median focal length of a few.
    Raises ValueError if the pairs do not connect all frames.
    """
    tree = spanning_tree(problem)
    views = _thin(problem, stride, static_weighting)
    points, poses = _attach(views, tree)
    focals = _focals(views, tree, problem.frames, shared_focal) if K is None else [float(K[0, 0])] * problem.frames
    size = tuple(reversed(problem.masks.shape[1:]))
    for n in set(range(problem.frames)) - poses.keys():
        known = intrinsics(focals[n], size) if K is None else K
        poses[n] = _resect(points[n], views, n, known)
    frames = torch.stack([poses[n] for n in range(problem.frames)])
    state = State(frames, frames[views.edges[:, 0]], torch.tensor(focals, dtype=torch.float64))
    edges = [tuple(views.edges[e].tolist()) for e in tree]
    return _scaled(Start(state, torch.stack([points[n] for n in range(problem.frames)]), edges), views)


def spanning_tree(problem: Problem) -> list[int]:
    """Pairs of a maximum spanning tree over mean(conf_a) * mean(conf_b), each touching those before it.

    Raises ValueError if the pairs do not connect all frames.
    """
    scores = (problem.conf_a.flatten(1).mean(1) * problem.conf_b.flatten(1).mean(1)).tolist()
    edges = problem.edges.tolist()
    order = sorted(range(len(edges)), key=lambda e: -scores[e])
    tree, inside = order[:1], set(edges[order[0]])
    while len(inside) < problem.frames:
        following = next((e for e in order if len(inside.intersection(edges[e])) == 1), None)
        if following is None:
            apart = sorted(set(range(problem.frames)) - inside)
            raise ValueError(f"the pairs do not connect frames {apart} with the others: use a denser pair graph")
        tree.append(following)
        inside.update(edges[following])
    return tree


@dataclass(frozen=True)
class _Views:
    """Every `stride`-th pixel of the pairs, on the CPU."""

    edges: torch.Tensor  # (P, 2)
    points: tuple[torch.Tensor, torch.Tensor]  # of a and b: (P, h', w', 3)
    weight: tuple[torch.Tensor, torch.Tensor]  # (P, h', w')
    stride: int
    principal: tuple[float, float]  # image centre in pixels of the full image

    @property
    def pixels(self) -> torch.Tensor:
        """(h', w', 2) in the full image."""
        return pixel_grid(*self.points[0].shape[1:3]) * self.stride + self.stride // 2


def _thin(problem: Problem, stride: int, static_weighting: bool) -> _Views:
    step = slice(stride // 2, None, stride)
    height, width = problem.masks.shape[1:]
    edges = problem.edges.cpu()
    points = tuple(maps[:, step, step].float().cpu() for maps in (problem.points_a, problem.points_b))
    weight = [conf[:, step, step].float().cpu() for conf in (problem.conf_a, problem.conf_b)]
    if static_weighting:
        fading = 1.0 - (1.0 - MOVER_WEIGHT) * problem.masks[:, step, step].float().cpu()
        weight = [w * fading[edges[:, i]] for i, w in enumerate(weight)]
    return _Views(edges, points, tuple(weight), stride, (width / 2, height / 2))


def _attach(views: _Views, tree: list[int]) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """World points (h', w', 3) of every frame, and world_from_cam (4, 4) of those that were first in a pair."""
    a, b = views.edges[tree[0]].tolist()
    points = {a: views.points[0][tree[0]], b: views.points[1][tree[0]]}
    poses = {a: torch.eye(4, dtype=torch.float64)}
    for e in tree[1:]:
        a, b = views.edges[e].tolist()
        known, new = (0, 1) if a in points else (1, 0)
        anchor, added = ((a, b), (b, a))[known]
        own, weight = views.points[known][e].flatten(0, 1), views.weight[known][e].flatten()
        rigid, scale = weighted_procrustes(own, points[anchor].flatten(0, 1), weight)
        points[added] = transform(rigid.float(), scale.float() * views.points[new][e])
        poses.setdefault(a, rigid)
    return points, poses


def _focals(views: _Views, tree: list[int], frames: int, shared: bool) -> list[float]:
    """Focal length of every frame in pixels, from a pair that it is the first of; else the others' median."""
    first: dict[int, int] = {}
    for e in [*tree, *range(len(views.edges))]:
        first.setdefault(int(views.edges[e, 0]), e)
    chosen = list(first.items())[: SHARED_FOCALS if shared else None]
    # In units of the thinned image pixel k lies at stride * k + stride // 2.
    principal = tuple((c - views.stride // 2) / views.stride for c in views.principal)
    found = {n: views.stride * focal_from_pointmap(views.points[0][e], principal) for n, e in chosen}
    median = float(np.median(list(found.values())))
    return [median if shared else found.get(n, median) for n in range(frames)]


def _resect(points: torch.Tensor, views: _Views, frame: int, K: np.ndarray) -> torch.Tensor:
    """(4, 4) world_from_cam from where the frame's pixels see its world points, by SQPnP inside RANSAC."""
    confidence = torch.zeros(points.shape[:2])
    for i in (0, 1):
        for e in (views.edges[:, i] == frame).nonzero().flatten().tolist():
            confidence = torch.maximum(confidence, views.weight[i][e])
    usable = confidence > PNP_CONFIDENCE
    if int(usable.sum()) < PNP_FEWEST:
        usable = confidence >= confidence.median()
    world, pixels = points[usable].double().numpy(), views.pixels[usable].double().numpy()
    found, rotation, translation, _ = cv2.solvePnPRansac(
        world, pixels, K, None, flags=cv2.SOLVEPNP_SQPNP, iterationsCount=PNP_ITERATIONS, reprojectionError=PNP_PIXELS
    )
    if not found:
        raise ValueError(f"frame {frame} is never the first of a pair and its pixels contradict its points: no pose")
    cam_from_world = torch.eye(4, dtype=torch.float64)
    cam_from_world[:3, :3] = torch.from_numpy(cv2.Rodrigues(rotation)[0])
    cam_from_world[:3, 3] = torch.from_numpy(translation[:, 0])
    return invert_se3(cam_from_world)


def _scaled(start: Start, views: _Views) -> Start:
    """With pair scales from the median depth ratio in the first view, and their geometric mean as published."""
    own = views.points[0][..., 2].flatten(1)
    ratio = (start.depth[views.edges[:, 0]].flatten(1) / own.clamp(min=1e-9)).median(1).values.clamp(min=1e-9).double()
    pairs = start.state.world_from_pair.clone()
    pairs[:, :3, :3] *= ratio[:, None, None]
    state = State(start.state.world_from_cam, pairs, start.state.focal)
    factor = GEOMETRIC_MEAN_SCALE / float(pair_scales(state).log().mean().exp())
    return Start(with_scale(state, factor), start.points * factor, start.tree)
