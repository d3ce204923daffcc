"""A walk of a thousand frames: is the incremental alignment as quick, as small and as good at its end as before?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import psutil
import torch
from scipy.spatial.transform import Rotation

from easi3r_lab.eval.alignment_stream import RATE, SIZE, Step, StreamRow, aligned_stream, stream_row
from easi3r_lab.eval.scores import score_trajectory
from easi3r_lab.published.objective import ObjectiveOptions, Problem
from easi3r_lab.published.solver import SolverOptions, solve
from easi3r_lab.synthetic.presets import build_scene
from easi3r_lab.synthetic.scene import Scene
from easi3r_lab.synthetic.true_pairs import iter_truths
from easi3r_ros.core.alignment.incremental import thin, thin_intrinsics, thin_pair
from easi3r_ros.core.alignment.whole import PairJournal, align_globally
from easi3r_ros.core.types import AlignedFrame, PairGeometry, TrackingState

EARLY, LATE = range(50, 150), 100  # frames whose time is compared: those, and the last so many
STRIDE = 4  # of the pixels that the published objective is solved on


@dataclass(frozen=True)
class Offline:
    """What became of the walk's pairs when all were looked at together."""

    ate_percent: float  # of the path; of the frames that are not lost, as all here
    seconds: float  # CPU time


@dataclass(frozen=True)
class WalkRow:
    stream: StreamRow
    injected: int  # frames that were made unusable
    ate_percent: float  # as the stream's, without lost frames, which hold the pose before
    published: Offline  # objective, in chunks: `solve_in_chunks`
    globally: Offline  # `easi3r run --global`
    early_ms: float  # median CPU time per frame of EARLY, measured again in turn with the last LATE ...
    late_ms: float  # ... and of those: what else the machine does concerns both
    memory_growth_mb: float  # resident memory, before the last LATE frames against the end of EARLY


def long_walk(frames: int = 1000, noise: float = 0.02, lost_every: int = 100, seed: int = 5) -> WalkRow:
    """A patrol with a third of the pixels moving; every `lost_every`-th frame is pure noise. Takes minutes.

    Raises ValueError if there are too few frames to compare the last with early ones.
    """
    if frames < EARLY.stop + LATE:
        raise ValueError(f"a long walk has at least {EARLY.stop + LATE} frames, not {frames}")
    scene = build_scene("patrol", seed, duration=frames / RATE)
    spoiled = set(range(lost_every, frames, lost_every))
    steps = partial(_steps, scene, frames, noise, spoiled)
    walk, again, process = steps(), steps(), psutil.Process()
    done, memory = list(islice(walk, EARLY.stop)), [process.memory_info().rss]
    done += islice(walk, frames - LATE - EARLY.stop)
    memory.append(process.memory_info().rss)
    list(islice(again, EARLY.start))
    in_turn = list(zip(again, walk, strict=False))
    done += [late for _, late in in_turn]
    posed = [index for index, step in enumerate(done) if step.result.state is not TrackingState.LOST]
    truth = np.stack([done[index].truth for index in posed])
    published, globally = _offline(steps, posed, truth)
    return WalkRow(
        stream=stream_row(f"walk of {frames}", done),
        injected=len(spoiled),
        ate_percent=_ate(np.stack([done[index].result.world_from_cam for index in posed]), truth),
        published=published,
        globally=globally,
        early_ms=1e3 * float(np.median([early.seconds for early, _ in in_turn])),
        late_ms=1e3 * float(np.median([late.seconds for _, late in in_turn])),
        memory_growth_mb=(memory[1] - memory[0]) / 2**20,
    )


def _steps(
    scene: Scene, frames: int, noise: float, spoiled: set[int], keep: Callable[..., None] | None = None
) -> Iterator[Step]:
    return aligned_stream(iter_truths(scene, frames, SIZE, RATE), noise, spoiled=spoiled, keep=keep)


def _offline(steps: Callable[..., Iterator[Step]], posed: list[int], truth: np.ndarray) -> tuple[Offline, Offline]:
    """The stream again, for its pairs: kept while it ran they would have counted as the aligner's memory."""
    journal, pairs, masks = PairJournal(), [], {}

    def keep(new: list[PairGeometry], known: dict[int, torch.Tensor], result: AlignedFrame) -> None:
        journal.add(new, known, result, focal_known=True)
        pairs.extend(thin_pair(pair, STRIDE) for pair in new)
        masks.update({index: thin(mask, STRIDE) for index, mask in known.items()})

    for _ in steps(keep=keep):
        pass
    K = thin_intrinsics(journal.entries[0].K, STRIDE)
    begin = time.process_time()
    chunks = solve_in_chunks(pairs, masks, posed, K)
    middle = time.process_time()
    refined = align_globally(journal).frames
    end = time.process_time()
    whole = np.stack([refined[index].world_from_cam for index in posed])
    return Offline(_ate(chunks, truth), middle - begin), Offline(_ate(whole, truth), end - middle)


def _ate(estimated: np.ndarray, truth: np.ndarray) -> float:
    return score_trajectory(estimated, truth).ate_percent_of_path


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
