"""What the fast ways of computing give, beside those that they stand for: masks of the same frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from easi3r_lab.eval.scores import region_similarity
from easi3r_lab.synthetic.clips import Clip
from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Frame

WARM_UP = 4  # frames before there are partners enough


@dataclass(frozen=True)
class Agreement:
    """Of two ways, over the frames of a clip."""

    iou: float  # of the masks of the one with those of the other
    first: float  # mean IoU of the masks of the first with the truth
    second: float


def masks_of(clip: Clip, backbone: Backbone, settings: dict) -> list[np.ndarray]:
    """(H, W) bool of every frame."""
    pipeline = Pipeline(with_settings(PipelineConfig(), settings), backbone)
    return [
        pipeline.push(Frame(i, clip.stamp_ns(i), "camera", image, clip.K)).mask for i, image in enumerate(clip.images)
    ]


def agreement(clip: Clip, backbone: Callable[[], Backbone], first: dict, second: dict) -> Agreement:
    """first, second: settings of the two ways. backbone: makes a new one that gives the same answers each time."""
    ours, theirs = (masks_of(clip, backbone(), settings)[WARM_UP:] for settings in (first, second))
    truth = clip.masks[WARM_UP:]
    return Agreement(_iou(ours, theirs), _mean_similarity(ours, truth), _mean_similarity(theirs, truth))


def _iou(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Over all pixels of all frames, so that an empty mask beside a tiny one weighs no more than it is."""
    one, other = np.stack(ours), np.stack(theirs)
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def _mean_similarity(masks: Sequence[np.ndarray], truth: np.ndarray) -> float:
    return float(np.mean([region_similarity(x, y) for x, y in zip(masks, truth, strict=True)]))
