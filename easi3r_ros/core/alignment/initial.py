"""Where the alignment starts: frames strung together along the most confident pairs (METHOD 7)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from easi3r_ros.core.alignment.reference import GEOMETRIC_MEAN_SCALE, Problem
from easi3r_ros.core.alignment.solver_state import State, with_scale
from easi3r_ros.core.geometry import focal_from_pointmap, intrinsics, invert_se3, pixel_grid, weighted_procrustes

PNP_CONFIDENCE = 2.5  # pixels below take no part, if enough others do
PNP_ITERATIONS, PNP_PIXELS = 10, 5.0  # of RANSAC
PNP_FEWEST = 12  # points


@dataclass(frozen=True)
class Start:
    state: State  # one focal length per frame; world: the camera of the first tree edge's first frame
    points: torch.Tensor  # (T, h', w', 3) float32 world points of every frame, at every `stride`-th pixel
    tree: list[tuple[int, int]]  # edges in the order in which they were attached

    def depth(self) -> torch.Tensor:
        """(T, h', w') float32"""
        cam_from_world = invert_se3(self.state.world_from_cam).to(self.points)
        row = cam_from_world[:, 2]  # (T, 4)
        return torch.einsum("tj,thwj->thw", row[:, :3], self.points) + row[:, 3, None, None]


def string_together(problem: Problem, stride: int = 1, K: np.ndarray | None = None) -> Start:
    """Poses, focal lengths and pair scales to start from, using every `stride`-th pixel in both directions.

    K: (3, 3) known intrinsics. Raises ValueError if the pairs do not connect all frames.
    """
    tree = spanning_tree(problem)
    thin = _Thin(problem, stride)
    points, poses = _attach(problem, thin, tree)
    focals = _focals(problem, thin, tree) if K is None else torch.full((problem.frames,), float(K[0, 0])).double()
    for n in range(problem.frames):
        if n not in poses:
            known = intrinsics(float(focals[n]), thin.size) if K is None else K
            poses[n] = _resect(points[n], thin, problem, n, known)
    frames = torch.stack([poses[n] for n in range(problem.frames)])
    world = torch.stack([points[n] for n in range(problem.frames)])
    start = Start(State(frames, frames[problem.edges[:, 0].cpu()], focals), world, [problem_edge(problem, e) for e in tree])
    return _scaled(problem, thin, start)


def problem_edge(problem: Problem, e: int) -> tuple[int, int]:
    return tuple(problem.edges[e].tolist())


def spanning_tree(problem: Problem) -> list[int]:
    """Pairs of a maximum spanning tree over mean(conf_a) * mean(conf_b), strongest first, each touching those before.

    Raises ValueError if the pairs do not connect all frames.
    """
    scores = (problem.conf_a.flatten(1).mean(1) * problem.conf_b.flatten(1).mean(1)).tolist()
    edges = problem.edges.tolist()
    order = sorted(range(len(edges)), key=lambda e: -scores[e])
    tree, inside = [order[0]], set(edges[order[0]])
    while len(inside) < problem.frames:
        following = next((e for e in order if len(inside.intersection(edges[e])) == 1), None)
        if following is None:
            apart = sorted(set(range(problem.frames)) - inside)
            raise ValueError(f"the pairs do not connect frames {apart} with the others: use a denser pair graph")
        tree.append(following)
        inside.update(edges[following])
    return tree
