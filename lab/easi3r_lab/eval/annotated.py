"""Masks on videos that are annotated in some of their frames: SegTrack v2, FBMS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from easi3r_lab.datasets.recorded import DataSetError, RecordedVideo
from easi3r_lab.eval.davis import SETTLED, SequenceScore
from easi3r_lab.eval.scores import boundary_accuracy, region_similarity, sequence_statistics
from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import TrackingState


def score_annotated(video: RecordedVideo, config: PipelineConfig, tick: Callable[[], None]) -> SequenceScore:
    """Every frame through a new pipeline, online; the annotated ones count, from the second one of the video on.

    tick: called after each frame. Raises DataSetError where annotation and image differ in size.
    """
    pipeline = Pipeline(config)
    at, j, f, shares, states, ms = [], [], [], [], [], []
    for frame in video.frames():
        result = pipeline.push(frame)
        mask, truth = result.mask, video.mask(frame.index)
        ms.append(sum(result.latency_ms.values()))
        states.append(result.state)
        tick()
        if truth is None or frame.index == 0:  # a causal method knows nothing of the first
            continue
        if truth.shape != mask.shape:
            raise DataSetError(
                f"sequence '{video.name}': annotation {truth.shape} and image {mask.shape} differ in size"
            )
        at.append(frame.index)
        j.append(region_similarity(mask, truth))
        f.append(boundary_accuracy(mask, truth))
        hit = np.count_nonzero(mask & truth)
        shares.append((hit / max(np.count_nonzero(mask), 1), hit / max(np.count_nonzero(truth), 1)))
    if not j:
        raise DataSetError(f"sequence '{video.name}' has no annotation after its first frame")
    settled = np.array(at) >= SETTLED
    settled = settled if settled.any() else np.ones(len(at), bool)
    precision, recall = np.mean(np.array(shares)[settled], axis=0)
    return SequenceScore(
        name=video.name,
        region=sequence_statistics(j),
        boundary=sequence_statistics(f),
        settled_jm=float(np.array(j)[settled].mean()),
        settled_jr=float((np.array(j)[settled] > 0.5).mean()),
        precision=float(precision),
        recall=float(recall),
        lost_percent=100 * states.count(TrackingState.LOST) / len(states),
        states={state.value: states.count(state) / len(states) for state in TrackingState},
        ms=float(np.median(ms)),
    )
