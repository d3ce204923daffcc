"""All presets, seeds and backbones of the rendered evaluation, and their means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from easi3r_lab.eval.synthetic_clips import ClipScore, ClipSpec, CueScore, evaluate, evaluate_baselines, render
from easi3r_ros.core.config import PipelineConfig


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
    presets: Sequence[str], seeds: Sequence[int], frames: int, configs: Mapping[str, PipelineConfig]
) -> Iterator[Row]:
    """One row per preset and method, the baselines last. configs: what to evaluate, by name."""
    for preset in presets:
        specs = [ClipSpec(preset, seed, frames, frozen=frozen) for seed in seeds for frozen in (False, True)]
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
