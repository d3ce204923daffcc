"""Pipelines on rendered clips whose truth is known: masks, cues, depth and camera of every preset, beside baselines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import cv2
import numpy as np
from sklearn.metrics import roc_auc_score

from easi3r_lab.eval.baselines import BASELINES
from easi3r_lab.eval.scores import RECALL_THRESHOLD, region_similarity, score_depth, score_trajectory
from easi3r_lab.synthetic.clips import RenderedFrame, render_frame
from easi3r_lab.synthetic.motions import with_movers_frozen
from easi3r_lab.synthetic.presets import build_scene
from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Frame, FrameResult, TrackingState

EVALUATION_SEEDS = (101, 102)  # tests, demo and tuning use small ones; training has scenes of its own
WARM_UP = 5  # frames before a cue has partners far enough back
AUC_STRIDE = 4  # every n-th pixel, since neighbours say the same
BASELINE_SECONDS = 0.1  # baselines look this far back
CONFIDENT = 1.2  # depth with less confidence is not published as points either


@dataclass(frozen=True)
class ClipSpec:
    preset: str
    seed: int
    frames: int = 60
    size: tuple[int, int] = (320, 240)  # (W, H)
    rate: float = 30.0  # Hz
    frozen: bool = False  # what would move stands still, and the truth is that nothing moves


@dataclass(frozen=True)
class CueScore:
    """Of one map that says where something moves."""

    auc: float  # probability that a moving pixel has a higher value than a static one; nan: there are not both
    jm: float = float("nan")  # with the best threshold in hindsight, for maps that come without one


@dataclass(frozen=True)
class ClipScore:
    """What a backbone did on one clip. nan: does not apply, such as J where nothing moves."""

    spec: ClipSpec
    backbone: str
    jm: float  # mean region similarity of the published masks, frames with movers
    jr: float  # share of those frames with J > 0.5
    false_percent: float  # static pixels masked, percent
    abs_rel: float  # static pixels with a confident depth, one scale for the clip
    delta_125: float
    depth_coverage: float  # share of static pixels with a confident depth
    ate_percent: float  # of the path, after Sim(3)
    rpe_degrees: float  # rotation from frame to frame
    rpe_percent: float  # translation from frame to frame, share of the mean step
    placed: float  # share of frames that have a pose
    fps: float  # of `Pipeline.push`, median
    cues: dict[str, CueScore] = field(default_factory=dict)


def render(spec: ClipSpec) -> list[RenderedFrame]:
    """The frames of a clip; a frozen one has the same instances, standing. Raises ValueError for an unknown preset."""
    scene = build_scene(spec.preset, spec.seed, duration=spec.frames / spec.rate)
    if spec.frozen:
        scene = with_movers_frozen(scene, seconds=spec.frames / spec.rate / 2)
    noise = (np.random.default_rng([spec.seed, index]) for index in range(spec.frames))
    return [render_frame(scene, i, i / spec.rate, spec.size, rng) for i, rng in enumerate(noise)]


def evaluate(spec: ClipSpec, frames: Sequence[RenderedFrame], config: PipelineConfig) -> ClipScore:
    """One backbone on one clip, every frame processed."""
    pipeline = Pipeline(config)
    results, seconds = [], []
    for frame in frames:
        start = time.perf_counter()
        results.append(pipeline.push(camera_frame(frame)))
        seconds.append(time.perf_counter() - start)
    settled = slice(WARM_UP, None)
    moves = [frame.mask & (not spec.frozen) for frame in frames]
    jm, jr, false_percent = _mask_score(results[settled], moves[settled])
    return ClipScore(
        spec,
        pipeline.backbone.name,
        jm,
        jr,
        false_percent,
        *_depth_score(results[settled], frames[settled]),
        *_camera_score(results, frames),
        fps=1.0 / float(np.median(seconds[settled])),
        cues=_cue_scores([_cue_maps(result) for result in results[settled]], [f.mask for f in frames[settled]]),
    )


def evaluate_baselines(spec: ClipSpec, frames: Sequence[RenderedFrame]) -> dict[str, CueScore]:
    """Every baseline on the newest frame and that of 0.1 s before."""
    back = max(1, round(BASELINE_SECONDS * spec.rate))
    pairs = [(frames[i - back], frames[i]) for i in range(max(WARM_UP, back), len(frames))]
    maps = [{name: cue(a.image, b.image) for name, cue in BASELINES.items()} for a, b in pairs]
    return _cue_scores(maps, [newest.mask for _, newest in pairs])


def camera_frame(frame: RenderedFrame) -> Frame:
    """As a camera with a camera_info would send it."""
    return Frame(frame.index, round(frame.seconds * 1e9), "camera", frame.image, frame.view.K)


def _mask_score(results: Sequence[FrameResult], moves: Sequence[np.ndarray]) -> tuple[float, float, float]:
    false = np.mean([(r.mask & ~truth).sum() / max((~truth).sum(), 1) for r, truth in _zip(results, moves)])
    j = np.array([region_similarity(r.mask, truth) for r, truth in _zip(results, moves) if truth.any()])
    if not len(j):
        return float("nan"), float("nan"), 100 * float(false)
    return float(j.mean()), float((j > RECALL_THRESHOLD).mean()), 100 * float(false)


def _depth_score(results: Sequence[FrameResult], frames: Sequence[RenderedFrame]) -> tuple[float, float, float]:
    estimated, truth = [], []
    for result, frame in _zip(results, frames):
        estimated.append(np.where(result.confidence > CONFIDENT, result.depth, np.nan))
        truth.append(np.where(frame.mask, np.nan, frame.depth))
    try:
        score = score_depth(np.stack(estimated), np.stack(truth))
    except ValueError:  # no depth at all, as while the camera only turns
        return float("nan"), float("nan"), 0.0
    return score.abs_rel, score.delta_125, score.coverage


def _camera_score(results: Sequence[FrameResult], frames: Sequence[RenderedFrame]) -> tuple[float, float, float, float]:
    """ATE in percent of the path, RPE in degrees and in percent of the mean step, and the share of frames placed."""
    placed = [r.state in (TrackingState.TRACKING, TrackingState.DEGRADED) for r in results]
    poses = np.stack([r.world_from_cam for r in results])
    truth = np.stack([frame.view.world_from_cam for frame in frames])
    try:
        score = score_trajectory(poses, truth)
    except ValueError:  # a camera without a path
        return float("nan"), float("nan"), float("nan"), float(np.mean(placed))
    step = score.path_length / (len(frames) - 1)
    return (
        score.ate_percent_of_path,
        score.rpe_rotation,
        100 * score.rpe_translation / step if step else float("nan"),
        float(np.mean(placed)),
    )


def _cue_maps(result: FrameResult) -> dict[str, np.ndarray]:
    """Every cue of a result, and the published probability, at the camera's size."""
    size = result.mask.shape[1], result.mask.shape[0]
    maps = {name: cv2.resize(np.nan_to_num(value), size) for name, value in result.evidence.items()}
    return maps | {"probability": result.probability}


def _cue_scores(maps: Sequence[dict[str, np.ndarray]], movers: Sequence[np.ndarray]) -> dict[str, CueScore]:
    """movers: (H, W) bool, pixels of what moves, or would if it were not frozen."""
    names = sorted(set.intersection(*(set(each) for each in maps))) if maps else []
    truth = np.stack([mover[::AUC_STRIDE, ::AUC_STRIDE] for mover in movers])
    scores = {}
    for name in names:
        values = np.stack([each[name][::AUC_STRIDE, ::AUC_STRIDE] for each in maps])
        both = truth.any() and not truth.all()
        auc = float(roc_auc_score(truth.ravel(), values.ravel())) if both else float("nan")
        scores[name] = CueScore(auc, _best_jm(values, truth) if both else float("nan"))
    return scores


def _best_jm(values: np.ndarray, truth: np.ndarray) -> float:
    """Mean J over the frames with movers at the one threshold that is best for them, of 32 quantiles."""
    shown = truth.any(axis=(1, 2))
    values, truth = values[shown], truth[shown]
    best = 0.0
    for threshold in np.unique(np.quantile(values, np.linspace(0.3, 0.995, 32))):
        j = [region_similarity(v > threshold, t) for v, t in _zip(values, truth)]
        best = max(best, float(np.mean(j)))
    return best


def _zip(first: Sequence, second: Sequence) -> Iterator[tuple]:
    return zip(first, second, strict=True)


@dataclass(frozen=True)
class Row:
    """Means over the seeds of one preset; nan: does not apply."""

    preset: str
    method: str  # a backbone, or "baselines"
    seeds: tuple[int, ...]
    figures: dict[str, float]  # as the fields of ClipScore; empty for baselines
    cues: dict[str, CueScore]
    frozen_auc: dict[str, float] = field(default_factory=dict)  # AUC on the pixels of movers that stand still
    frozen_false_percent: float = float("nan")

    def as_dict(self) -> dict:
        return asdict(self)


def rows(
    presets: Sequence[str],
    seeds: Sequence[int],
    frames: int,
    configs: Mapping[str, PipelineConfig],
    rate: float = ClipSpec.rate,
) -> Iterator[Row]:
    """One row per preset and method, the baselines last. configs: what to evaluate, by name; rate: Hz of the clips."""
    for preset in presets:
        specs = [ClipSpec(preset, seed, frames, rate=rate, frozen=frozen) for seed in seeds for frozen in (False, True)]
        clips = {spec: render(spec) for spec in specs}
        if not any(frame.mask.any() for frame in clips[specs[0]]):  # nothing to freeze
            clips = {spec: frames for spec, frames in clips.items() if not spec.frozen}
        for name, config in configs.items():
            yield _row(preset, name, tuple(seeds), [evaluate(spec, clip, config) for spec, clip in clips.items()])
        yield _baselines(preset, tuple(seeds), {spec: evaluate_baselines(spec, clip) for spec, clip in clips.items()})


def _row(preset: str, method: str, seeds: tuple[int, ...], scores: Sequence[ClipScore]) -> Row:
    moving = [score for score in scores if not score.spec.frozen]
    frozen = [score for score in scores if score.spec.frozen]
    names = [item.name for item in fields(ClipScore) if item.name not in ("spec", "backbone", "cues")]
    return Row(
        preset,
        method,
        seeds,
        {name: _mean([getattr(score, name) for score in moving]) for name in names},
        _mean_cues([score.cues for score in moving]),
        _mean_auc([score.cues for score in frozen]),
        _mean([score.false_percent for score in frozen]),
    )


def _baselines(preset: str, seeds: tuple[int, ...], scores: Mapping[ClipSpec, dict[str, CueScore]]) -> Row:
    moving = [cues for spec, cues in scores.items() if not spec.frozen]
    frozen = [cues for spec, cues in scores.items() if spec.frozen]
    return Row(preset, "baselines", seeds, {}, _mean_cues(moving), _mean_auc(frozen))


def _mean(values: Sequence[float]) -> float:
    """Over what applies; nan if nothing does."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _mean_cues(scores: Sequence[Mapping[str, CueScore]]) -> dict[str, CueScore]:
    return {
        name: CueScore(_mean([each[name].auc for each in scores]), _mean([each[name].jm for each in scores]))
        for name in scores[0]
    }


def _mean_auc(scores: Sequence[Mapping[str, CueScore]]) -> dict[str, float]:
    return {name: cue.auc for name, cue in _mean_cues(scores).items()} if scores else {}
