"""The published objective over a recording too long for one solve: overlapping chunks, joined by Sim(3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from easi3r_lab.published.objective import ObjectiveOptions, Problem
from easi3r_lab.published.solver import SolverOptions, solve
from easi3r_ros.core.types import PairGeometry

CHUNK, OVERLAP = 24, 8  # frames


def solve_in_chunks(
    pairs: Sequence[PairGeometry], masks: Mapping[int, torch.Tensor], frames: Sequence[int], K: np.ndarray
) -> np.ndarray:
    """(T, 4, 4) world_from_cam of `frames`, ascending, from the pairs among them; without flow, movers left out.

    masks: frame index -> (h, w) bool, True on movers; K: (3, 3) in pixels of the pointmaps. Raises ValueError if the
    pairs of a chunk do not connect its frames.
    """
    poses = np.tile(np.eye(4), (len(frames), 1, 1))
    for first in range(0, max(1, len(frames) - OVERLAP), CHUNK - OVERLAP):
        chunk = frames[first : first + CHUNK]
        solved = _solved(pairs, masks, chunk, K)
        if first:
            solved = joined(poses[first : first + OVERLAP], solved)
        poses[first : first + len(chunk)] = solved
    return poses


def _solved(
    pairs: Sequence[PairGeometry], masks: Mapping[int, torch.Tensor], chunk: Sequence[int], K: np.ndarray
) -> np.ndarray:
    row = {index: i for i, index in enumerate(chunk)}
    inside = [pair for pair in pairs if pair.a in row and pair.b in row]
    maps = [torch.stack([getattr(p, name) for p in inside]) for name in ("points_a", "points_b", "conf_a", "conf_b")]
    edges = torch.tensor([[row[pair.a], row[pair.b]] for pair in inside])
    problem = Problem(edges, *maps, masks=torch.stack([masks[index] for index in chunk]))
    options = SolverOptions(ObjectiveOptions(flow_weight=0.0, static_weighting=True), K=K)
    return solve(problem, options).world_from_cam


def joined(before: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """`poses` (M, 4, 4) by the similarity that brings its first ones nearest to `before` (N, 4, 4), N <= M."""
    same = poses[: len(before)]
    turn = Rotation.from_matrix(before[:, :3, :3] @ same[:, :3, :3].transpose(0, 2, 1)).mean().as_matrix()
    target, source = before[:, :3, 3], same[:, :3, 3]
    scale = np.linalg.norm(target - target.mean(0)) / np.linalg.norm(source - source.mean(0))
    out = poses.copy()
    out[:, :3, :3] = turn @ poses[:, :3, :3]
    out[:, :3, 3] = scale * (poses[:, :3, 3] - source.mean(0)) @ turn.T + target.mean(0)
    return out
