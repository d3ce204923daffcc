"""What a frame costs after the network, of this checkout and of another, on the same frames and in turn.

The other one is the commit to compare with, checked out anywhere; it runs with this Python and needs no environment of
its own: `git worktree add /tmp/before d42ced3`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easi3r_lab.synthetic import render_clip

WORKER = Path(__file__).with_name("after_network_worker.py")
HERE = Path(__file__).parents[3]
WARM = 10  # frames that the worker does not count


@dataclass(frozen=True)
class Cost:
    """Milliseconds per frame, medians over frames and rounds."""

    wall_ms: float
    cpu_ms: float  # of all threads: what other processes disturb least
    stage_ms: dict[str, float]
    iou: float  # of the masks with the truth


def record(path: Path, frames: int, size: tuple[int, int] = (512, 288)) -> None:
    """A rendered clip with its truth, from which the worker makes a network's answers."""
    clip = render_clip("walkers", seed=5, frames=WARM + frames, size=size, rate=10.0)
    depth = clip.depth.astype(np.float32)
    np.savez(path, images=clip.images, masks=clip.masks, depth=depth, K=clip.K, world_from_cam=clip.world_from_cam)


def compare(
    recording: Path, sources: Sequence[Path], cue: str, frames: int, rounds: int, notify: Callable[[str], None]
) -> list[Cost]:
    """One Cost per folder of sources, each run `rounds` times, in turn."""
    runs: list[list[dict]] = [[] for _ in sources]
    for number in range(rounds):
        for source, own in zip(sources, runs, strict=True):
            notify(f"{cue}, round {number + 1} of {rounds}: {source}")
            own.append(_run(recording, source, cue, frames))
    return [_cost(own) for own in runs]


def _run(recording: Path, source: Path, cue: str, frames: int) -> dict:
    command = [sys.executable, str(WORKER), str(recording), cue, str(frames)]
    environment = os.environ | {"PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the pipeline of '{source}' failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _cost(runs: Sequence[dict]) -> Cost:
    def median(name: str) -> float:
        return float(np.median([value for run in runs for value in run[name]]))

    stages = {name: float(np.median([run["stage_ms"][name] for run in runs])) for name in runs[0]["stage_ms"]}
    return Cost(median("milliseconds"), median("cpu_milliseconds"), stages, float(np.mean([r["iou"] for r in runs])))
