"""Camera, depth and point cloud on recordings whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from easi3r_lab.datasets.recorded import RecordedVideo
from easi3r_lab.eval.scores import TrajectoryScore, score_depth, score_trajectory
from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import FrameResult, TrackingState

NAN = float("nan")
CONFIDENT = 1.2  # depth with less confidence is not published as points either
MAX_DEPTH_FRAMES = 60  # of a sequence, evenly spread
PIXELS = 6000  # per frame that is compared
L1_ROUNDS = 30


@dataclass(frozen=True)
class RecordingScore:
    """What one configuration did on one recording. nan: there is no truth, or nothing to compare with it."""

    name: str
    frames: int
    ate: float = NAN  # rmse after Sim(3), metres
    ate_percent: float = NAN  # of the path
    rpe_translation: float = NAN  # rmse from frame to frame, metres
    rpe_degrees: float = NAN
    placed_percent: float = NAN  # frames with a pose, in the world that has most of them
    abs_rel: float = NAN  # one scale per sequence, the ratio of the medians
    delta: float = NAN  # share of pixels within 1.25
    abs_rel_affine: float = NAN  # one scale and one shift per sequence
    delta_affine: float = NAN
    depth_coverage: float = NAN  # share of the known pixels that have a confident depth
    accuracy: float = NAN  # mean distance of our points to the true cloud, metres
    accuracy_median: float = NAN
    completeness: float = NAN  # mean distance of the true points to ours
    completeness_median: float = NAN
    lost_percent: float = NAN
    ms: float = NAN  # median of `Pipeline.push`
    truth_path: list = field(default_factory=list)  # positions, for the picture
    estimated_path: list = field(default_factory=list)  # aligned with it

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RecordingScore:
        return cls(**values)

    def figures(self) -> dict[str, Any]:
        """All but the paths."""
        return {key: value for key, value in asdict(self).items() if not key.endswith("_path")}


@dataclass(frozen=True)
class DepthSample:
    """Pixels of one frame where the true depth is known."""

    index: int
    pixels: np.ndarray  # (N, 2) u, v
    truth: np.ndarray  # (N,) metres
    estimate: np.ndarray  # (N,) units; NaN: not known, or not confident
    K: np.ndarray  # (3, 3) of the estimate


def score_recording(
    video: RecordedVideo, config: PipelineConfig, tick: Callable[[], None], with_K: bool = True
) -> RecordingScore:
    """Every frame through a new pipeline, online. tick: called after each. with_K: whether intrinsics are told."""
    pipeline = Pipeline(config)
    wanted = set(np.linspace(0, len(video) - 1, MAX_DEPTH_FRAMES).astype(int).tolist()) if video.has_depth else set()
    results, samples, ms = [], [], []
    for frame in video.frames(with_K):
        result = pipeline.push(frame)
        ms.append(sum(result.latency_ms.values()))
        if frame.index in wanted and result.state.has_pose and (sample := _sample(video, result)) is not None:
            samples.append(sample)
        results.append((result.world_from_cam, result.state, result.world))
        tick()
    kept, trajectory = _camera(video, results)
    states = [state for _, state, _ in results]
    samples = [sample for sample in samples if sample.index in set(kept)] if kept else samples
    values: dict[str, Any] = _depth_figures(samples)
    if trajectory is not None:
        values |= _camera_figures(trajectory) | _cloud_figures(
            video, samples, dict(zip(kept, trajectory.aligned, strict=True)), trajectory.scale
        )
        values["truth_path"] = np.round(video.world_from_cam[kept][:, :3, 3], 4).tolist()
        values["estimated_path"] = np.round(trajectory.aligned[:, :3, 3], 4).tolist()
    return RecordingScore(
        video.name,
        len(results),
        placed_percent=100 * len(kept) / len(results),
        lost_percent=100 * states.count(TrackingState.LOST) / len(states),
        ms=float(np.median(ms)),
        **values,
    )


def _camera(
    video: RecordedVideo, results: Sequence[tuple[np.ndarray, TrackingState, int]]
) -> tuple[list[int], TrajectoryScore | None]:
    """The frames that count, and their trajectory; None if it cannot be compared. Worlds are not comparable."""
    placed = [i for i, (_, state, _) in enumerate(results) if state.has_pose]
    if not placed:
        return [], None
    worlds, counts = np.unique([results[i][2] for i in placed], return_counts=True)
    kept = [i for i in placed if results[i][2] == worlds[counts.argmax()]]
    if video.world_from_cam is None:
        return kept, None
    kept = [i for i in kept if np.isfinite(video.world_from_cam[i]).all()]
    if len(kept) < 3:
        return kept, None
    try:
        return kept, score_trajectory(np.stack([results[i][0] for i in kept]), video.world_from_cam[kept])
    except ValueError:  # a camera that stood still has no trajectory
        return kept, None


def _camera_figures(score: TrajectoryScore) -> dict[str, float]:
    return {
        "ate": score.ate,
        "ate_percent": score.ate_percent_of_path,
        "rpe_translation": score.rpe_translation,
        "rpe_degrees": score.rpe_rotation,
    }


def _sample(video: RecordedVideo, result: FrameResult) -> DepthSample | None:
    truth = video.depth(result.frame.index)
    if truth is None:
        return None
    height, width = result.depth.shape
    v, u = np.nonzero(np.isfinite(truth) & (truth > 0))
    if not len(v):
        return None
    step = max(1, len(v) // PIXELS)
    v, u = v[::step], u[::step]
    # Truth of another size, such as a laser's, is looked up where its pixel lies in the image.
    row, column = (v + 0.5) * height / truth.shape[0], (u + 0.5) * width / truth.shape[1]
    row, column = row.astype(int), column.astype(int)
    confident = result.confidence[row, column] > CONFIDENT
    estimate = np.where(confident, result.depth[row, column], np.nan)
    return DepthSample(
        result.frame.index, np.stack([column, row], 1), truth[v, u].astype(np.float64), estimate, result.K
    )


def _depth_figures(samples: Sequence[DepthSample]) -> dict[str, float]:
    if not samples:
        return {}
    truth = np.concatenate([sample.truth for sample in samples])
    estimate = np.concatenate([sample.estimate for sample in samples])
    both = np.isfinite(estimate) & (estimate > 0)
    if both.sum() < 10:
        return {"depth_coverage": float(both.mean())}
    one = score_depth(estimate, truth)
    scale, shift = scale_and_shift(estimate[both], truth[both])
    affine = np.maximum(scale * estimate[both] + shift, 1e-6)
    ratio = affine / truth[both]
    return {
        "abs_rel": one.abs_rel,
        "delta": one.delta_125,
        "abs_rel_affine": float(np.abs(ratio - 1).mean()),
        "delta_affine": float((np.maximum(ratio, 1 / ratio) < 1.25).mean()),
        "depth_coverage": one.coverage,
    }


def scale_and_shift(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(s, t) with the least sum of |s estimate + t - truth|, (N,) each: least squares, re-weighted (Weiszfeld)."""
    design = np.stack([estimate, np.ones_like(estimate)], 1)
    weight = np.ones_like(estimate)
    solution = np.zeros(2)
    for _ in range(L1_ROUNDS):
        root = np.sqrt(weight)[:, None]
        solution, *_ = np.linalg.lstsq(design * root, truth * root[:, 0], rcond=None)
        weight = 1 / np.maximum(np.abs(design @ solution - truth), 1e-6 * np.abs(truth).mean())
    return float(solution[0]), float(solution[1])


def _cloud_figures(
    video: RecordedVideo, samples: Sequence[DepthSample], aligned: dict[int, np.ndarray], scale: float
) -> dict[str, float]:
    """Of all sampled frames together, in the truth's world; aligned: (4, 4) per frame. Only with intrinsics."""
    if video.K is None:
        return {}
    ours, true = [], []
    for sample in samples:
        known = np.isfinite(sample.estimate)
        pose = video.world_from_cam[sample.index]
        true.append(_in_world(sample.pixels, sample.truth, video.K, pose))
        ours.append(_in_world(sample.pixels[known], scale * sample.estimate[known], sample.K, aligned[sample.index]))
    if not ours or not sum(map(len, ours)):
        return {}
    ours, true = np.concatenate(ours), np.concatenate(true)
    accuracy, completeness = cKDTree(true).query(ours)[0], cKDTree(ours).query(true)[0]
    return {
        "accuracy": float(accuracy.mean()),
        "accuracy_median": float(np.median(accuracy)),
        "completeness": float(completeness.mean()),
        "completeness_median": float(np.median(completeness)),
    }


def _in_world(pixels: np.ndarray, depth: np.ndarray, K: np.ndarray, world_from_cam: np.ndarray) -> np.ndarray:
    """(N, 3) points of pixels (N, 2) at depth (N,)."""
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], 1) @ np.linalg.inv(K).T
    return (rays * depth[:, None]) @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]


def mean_recording(scores: Sequence[RecordingScore]) -> RecordingScore:
    """Over the sequences that have a figure, each counting the same."""
    values = {}
    for item in fields(RecordingScore):
        if item.name in ("name", "frames") or item.name.endswith("_path"):
            continue
        known = [value for score in scores if np.isfinite(value := getattr(score, item.name))]
        values[item.name] = float(np.mean(known)) if known else NAN
    return RecordingScore("mean", sum(score.frames for score in scores), **values)
