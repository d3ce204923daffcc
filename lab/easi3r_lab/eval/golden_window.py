"""What a golden file of a window of frames records (two passes of the published batch pipeline), recomputed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from easi3r_lab.published.two_passes import MotionAnalysis, analyse_motion, decode_edges, named_edges
from easi3r_ros.core.config import BackboneConfig
from easi3r_ros.core.dust3r.checkpoints import network_config
from easi3r_ros.core.dust3r.generated import generated_network
from easi3r_ros.core.dust3r.inference import Dust3rBackbone, token_mask
from easi3r_ros.core.dust3r.network import NetworkConfig
from easi3r_ros.core.motion.clustering import best_threshold, partitions
from easi3r_ros.core.types import Edge, Features, Frame, ImageTransform, NetworkInput, PairGeometry

SMALL_DPT = NetworkConfig(encoder_width=96, encoder_depth=4, encoder_heads=6, decoder_width=96)
LABELS = frozenset({"p1_kmeans_labels", "p2_kmeans_labels"})  # injected: they depend on the scikit-learn version
INPUTS = LABELS | {
    "frames_u8",
    "drawn_mask",
    "scene_graph",
    "salt",
    "sklearn_version",
    "full_edge_index",
    "config_json",
}

Recorded = Mapping[str, np.ndarray]


def recognises(recorded: Recorded) -> bool:
    return {"frames_u8", "scene_graph", "edges", "p1_kmeans_labels"} <= recorded.keys()


@torch.no_grad()
def recompute(recorded: Recorded, tolerance: float, device: str = "cpu") -> dict[str, np.ndarray]:
    """Our values, complete, under the recorded names without their sub-sampling.

    Where a value is within `tolerance` of the threshold, the mask says what the recorded one does.
    """
    backbone = Dust3rBackbone(
        generated_network(_config(recorded), str(recorded["salt"])), BackboneConfig(device=device, dtype="float32")
    )
    features = {image.frame.index: backbone.encode(image) for image in _inputs(recorded["frames_u8"])}
    edges = [(int(a), int(b)) for a, b in recorded["edges"]]
    ours = {"edges": _in_recorded_order(named_edges(str(recorded["scene_graph"]), len(features)), edges)}
    first_masks = {frame: torch.from_numpy(mask) for frame, mask in enumerate(recorded["p1_masks"])}
    for number, masks in ((1, None), (2, first_masks)):
        pairs = decode_edges(backbone, features, edges, masks)
        labels = torch.from_numpy(recorded[f"p{number}_kmeans_labels"]).long().to(device)
        analysis = analyse_motion(features, pairs, lambda _, labels=labels: labels.flatten(1))
        values = _pairs(pairs) | _statistics(analysis) | _motion(analysis) | {"feat": _token_grids(features)}
        ours |= {f"p{number}_{name}": value.cpu().numpy() for name, value in values.items()}
        ours |= _decisions(f"p{number}_", recorded, analysis, tolerance)
    patch = backbone.network.config.patch_size
    ours["p1_tokmask"] = (
        _stacked([token_mask(m, patch) for m in first_masks.values()]).view(-1, *_grid(features)).numpy()
    )
    return ours


def _config(recorded: Recorded) -> NetworkConfig:
    return network_config(json.loads(str(recorded["config_json"]))) if "config_json" in recorded else SMALL_DPT


def _inputs(frames: np.ndarray) -> list[NetworkInput]:
    """Frames (F, h, w, 3) that already have the network's size."""
    size = frames.shape[2], frames.shape[1]
    transform = ImageTransform(size, size, (0, 0), size)
    return [NetworkInput(Frame(i, i, "camera", image), image, None, transform) for i, image in enumerate(frames)]


def _in_recorded_order(ours: list[Edge], recorded: list[Edge]) -> np.ndarray:
    """The order of a graph carries no meaning: if the sets agree, the recorded order is taken."""
    return np.array(recorded if sorted(ours) == sorted(recorded) else ours)


def _pairs(pairs: Sequence[PairGeometry]) -> dict[str, Tensor]:
    return {
        "attn_k_i": _stacked([pair.evidence.attention.source for pair in pairs]),
        "attn_k_j": _stacked([pair.evidence.attention.reference for pair in pairs]),
        "pts3d_i": _stacked([pair.points_a for pair in pairs]),
        "pts3d_j": _stacked([pair.points_b for pair in pairs]),
        "conf_i": _stacked([pair.conf_a for pair in pairs]),
        "conf_j": _stacked([pair.conf_b for pair in pairs]),
    }


def _statistics(analysis: MotionAnalysis) -> dict[str, Tensor]:
    roles = {"i": "source", "j": "reference"}
    values = {}
    for theirs, ours in roles.items():
        for moment in ("mean", "std"):
            values[f"agg_{theirs}_{moment}"] = getattr(analysis.statistics, f"{ours}_{moment}")
            values[f"fused_{theirs}_{moment}"] = getattr(analysis.motion.maps, f"{ours}_{moment}")
    return values


def _motion(analysis: MotionAnalysis) -> dict[str, Tensor]:
    motion = analysis.motion
    return {
        "dynamic_map": motion.dynamic,
        "refined_dynamic_map": motion.refined,
        "upsampled_map": motion.upsampled,
    }


def _decisions(prefix: str, recorded: Recorded, analysis: MotionAnalysis, tolerance: float) -> dict[str, np.ndarray]:
    """Thresholds of the recorded map, and masks of our map at the recorded threshold."""
    candidates = partitions(recorded[f"{prefix}upsampled_map"])
    thresholds = np.full((len(candidates), 3), -1.0)
    for row, candidate in zip(thresholds, candidates, strict=True):
        row[: len(candidate.thresholds)] = candidate.thresholds
    threshold, upsampled = recorded[f"{prefix}threshold"], analysis.motion.upsampled.cpu().numpy()
    undecided = np.abs(upsampled - threshold) <= tolerance
    return {
        f"{prefix}otsu_thresholds_2_3_4": thresholds,
        f"{prefix}otsu_scores_2_3_4": np.array([candidate.score for candidate in candidates]),
        f"{prefix}threshold": np.array(best_threshold(candidates)),
        f"{prefix}masks": np.where(undecided, recorded[f"{prefix}masks"], upsampled > threshold),
    }


def _token_grids(features: Mapping[int, Features]) -> Tensor:
    return _stacked([f.tokens.unflatten(0, f.grid) for f in features.values()])  # (F, gh, gw, C)


def _grid(features: Mapping[int, Features]) -> tuple[int, int]:
    return next(iter(features.values())).grid


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors))
