"""Alignment problems for tests: the recorded ones, a small part of one, and simulated ones."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from easi3r_lab.eval.alignment_twins import Twin, preset_twin
from easi3r_lab.eval.recorded_alignments import Variant, read_variants
from easi3r_lab.eval.scores import score_trajectory
from easi3r_lab.published.objective import FOCAL_SCALE, ObjectiveOptions, Parameters, Problem
from easi3r_lab.published.solver import BatchSolution, SolverOptions

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "golden_align.npz"
SMALL = Path(__file__).parent / "data" / "golden_align_small.npz"

NO_FLOW = ObjectiveOptions(flow_weight=0.0)
PARITY = SolverOptions(NO_FLOW)  # as published
STATIC = SolverOptions(replace(NO_FLOW, static_weighting=True))
ALL_TERMS = ObjectiveOptions(temporal_weight=0.01, depth_prior_weight=0.05)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For modules that import it: their problems are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=1)
def recorded_variants() -> dict[str, Variant]:
    """All of golden_align.npz, by name; skips the test where the file is not there (6 MB, not in the repository)."""
    if not GOLDEN.exists():
        pytest.skip(f"needs {GOLDEN}")
    return {variant.name: variant for variant in read_variants(GOLDEN)}


@lru_cache(maxsize=1)
def small_arrays() -> dict[str, np.ndarray]:
    """Every 4th pixel of golden_align.npz, without flow."""
    with np.load(SMALL) as file:
        return {name: file[name] for name in file.files}


def small_problem() -> Problem:
    a = small_arrays()
    maps = [torch.from_numpy(a[name].astype(np.float32)) for name in ("pts3d_i", "pts3d_j", "conf_i", "conf_j")]
    return Problem(torch.from_numpy(a["edges"].astype(np.int64)), *maps, torch.from_numpy(a["gt_mask"]))


def small_start() -> Parameters:
    """The recorded start on the thinned images, whose focal length is as many times shorter."""
    a = small_arrays()
    raw = [torch.from_numpy(a[f"demo_noflow/init_{name}"]) for name in ("pw_poses", "im_poses", "im_focals")]
    raw[2] = raw[2] - FOCAL_SCALE * float(np.log(a["stride"]))
    return Parameters(*raw, torch.from_numpy(np.log(a["demo_noflow/init_depth"])))


@lru_cache(maxsize=1)
def twin() -> Twin:
    """Five small frames of people walking, with flow."""
    return preset_twin("walkers", frames=5, size=(48, 32), graph="swin-2-noncyclic", seed=3)


def without_flow(problem: Problem) -> Problem:
    return replace(problem, flow=None, flow_back=None)


def smooth_problem() -> Problem:
    """The twin with noise in all directions: noise along the rays alone puts a residual of zero, where a norm has no
    derivative, at every best depth."""
    return shaken(twin().problem, 0.02)


def shaken(problem: Problem, relative: float, seed: int = 0) -> Problem:
    """With noise on every coordinate, relative to the depth."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(points: torch.Tensor) -> torch.Tensor:
        return points + relative * points[..., 2:] * torch.randn(points.shape, generator=generator)

    return replace(problem, points_a=noisy(problem.points_a), points_b=noisy(problem.points_b))


def ate(solution: BatchSolution, truth: np.ndarray) -> float:
    return score_trajectory(solution.world_from_cam, truth).ate
