"""Does a network's cross-attention know what moves? AUC of Easi3R's four maps and their product on rendered clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from easi3r_lab.eval.synthetic_clips import ClipSpec, camera_frame
from easi3r_lab.published.two_passes import decode_edges, swin_stride_edges
from easi3r_lab.synthetic.clips import RenderedFrame
from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import PreprocessConfig
from easi3r_ros.core.motion.attention import attention_of
from easi3r_ros.core.motion.statistics import WINDOW_SCOPE, AttentionMaps, aggregate, fuse
from easi3r_ros.core.preprocess import prepare
from easi3r_ros.core.types import Features

GRAPH_WINDOW = 5  # as published: offsets 1, 3, 5, 7, 9
MOSTLY = 0.5  # share of a token's pixels that makes it a moving one; tokens with fewer, but any, are left out


@dataclass(frozen=True)
class EffectScore:
    """AUC of every map, in the direction in which eq. 9 uses it; 0.5 is chance."""

    spec: ClipSpec
    auc: dict[str, float]


def attention_effect(spec: ClipSpec, frames: Sequence[RenderedFrame], backbone: Backbone) -> EffectScore:
    """Maps of the first pass over the published pair graph. Raises ValueError for a clip in which nothing can move."""
    features = {frame.index: _features(frame, backbone) for frame in frames}
    with torch.inference_mode():
        pairs = decode_edges(backbone, features, swin_stride_edges(len(frames), GRAPH_WINDOW))
        statistics = aggregate(attention_of({pair.edge: pair.evidence for pair in pairs}), features)
        if statistics is None:
            raise ValueError("no frame has two partners: use more frames")
        maps, _ = fuse(statistics, WINDOW_SCOPE)
    grid = maps.source_mean.shape[1:]
    share = np.stack([_token_share(frame.mask, grid) for frame in frames if frame.index in maps.frames])
    moving, known = share >= MOSTLY, (share >= MOSTLY) | (share == 0)
    if not moving.any() or moving.all():
        raise ValueError(f"'{spec.preset}' has no mover in sight: choose another clip")
    return EffectScore(
        spec, {name: float(roc_auc_score(moving[known], value.numpy()[known])) for name, value in terms(maps).items()}
    )


def terms(maps: AttentionMaps) -> Mapping[str, Tensor]:
    """The factors of eq. 9 and their product, each (F, gh, gw), high where something should move."""
    factors = {
        "1 - mean as source": 1 - maps.source_mean,
        "std as source": maps.source_std,
        "mean as reference": maps.reference_mean,
        "1 - std as reference": 1 - maps.reference_std,
    }
    product = torch.stack(list(factors.values())).prod(dim=0)  # eq. 9
    return factors | {"product (eq. 9)": product}


def _features(frame: RenderedFrame, backbone: Backbone) -> Features:
    return backbone.encode(prepare(camera_frame(frame), backbone.input_spec, PreprocessConfig()))


def _token_share(mask: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """(gh, gw) share of moving pixels under each token."""
    pixels = torch.from_numpy(mask)[None, None].float()
    return torch.nn.functional.adaptive_avg_pool2d(pixels, tuple(grid))[0, 0].numpy()
