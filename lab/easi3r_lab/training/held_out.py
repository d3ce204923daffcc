"""How good a network, or any backbone, is on rendered pairs that training never sees."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from easi3r_lab.eval.scores import DepthScore, score_depth
from easi3r_lab.synthetic.training_views import training_views
from easi3r_lab.training.losses import TrainingAnswers, answer
from easi3r_lab.training.pairs import Direction, TrainingPairs, training_pairs
from easi3r_lab.training.plan import EVALUATION_SEED, TINY
from easi3r_ros.core.alignment.placement import pair_pose, pair_sample
from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import PreprocessConfig
from easi3r_ros.core.dust3r.network import Dust3rNetwork
from easi3r_ros.core.geometry import weighted_procrustes
from easi3r_ros.core.preprocess import prepare
from easi3r_ros.core.types import Frame, NetworkInput, PairGeometry

SCENES = 64
VIEWS = 4
EDGES = ((0, 1), (3, 1))  # a small and a larger step
CHUNK = 16  # pairs at once
STEP_NS = 150_000_000  # between the two frames of a pair
MIN_STEP = 0.02  # of the median depth: a shorter translation has no direction


@lru_cache(maxsize=4)
def held_out_pairs(long_side: int, patch: int, seed: int = EVALUATION_SEED) -> TrainingPairs:
    """Pairs (B = scenes x edges) of scenes beyond training's seeds, 4:3."""
    views = training_views(seed, SCENES, VIEWS, (long_side, long_side * 3 // 4))
    return training_pairs(views, EDGES, patch)


@torch.no_grad()
def network_figures(network: Dust3rNetwork, long_side: int, device: torch.device) -> dict[str, float]:
    """Figures of the held-out pairs at this size, rounded for a log."""
    pairs = held_out_pairs(long_side, network.config.patch_size)
    rows: dict[str, list[Tensor]] = {}
    for chunk in torch.arange(len(pairs)).split(CHUNK):
        part = pairs.select(chunk)
        answers = answer(network, part.to(device))
        for name, values in _measure_answers(answers, part).items():
            rows.setdefault(name, []).append(values)
    measured = {name: torch.cat(values) for name, values in rows.items()}
    return _summary(measured, pairs)


def _measure_answers(answers: TrainingAnswers, pairs: TrainingPairs) -> dict[str, Tensor]:
    """Per pair, from the order (a, b) unless said otherwise."""
    count = len(pairs)
    points_a, points_b = (points[:count].cpu() for points in answers.points)
    own_b = answers.points[0][count:].cpu()  # b in its own camera, from the order (b, a)
    weight = (answers.confidence[1][:count] * answers.confidence[0][count:]).cpu()
    depth_error, inlier = _depth_error(points_a[..., 2], pairs.a.points[..., 2])
    matching = answers.matching[0][-1][:count].cpu()
    best = matching.argmax(-1, keepdim=True)
    hit = ((pairs.a.indices == best) & (pairs.a.weights > 0.05)).any(-1)
    return {
        "abs_rel": depth_error,
        "delta_125": inlier,
        "rotation": _rotation_error(own_b, points_b, weight, pairs.a_from_b),
        "hit": (hit & pairs.a.visible).sum(1) / pairs.a.visible.sum(1).clamp(min=1),
    }


def _depth_error(depth: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """AbsRel and share of delta < 1.25 of each image, scaled by the ratio of the medians."""
    # Depth behind the camera counts as nearest, not as unknown.
    pairs = zip(depth.clamp(min=1e-6).numpy(), torch.where(truth.isfinite(), truth, torch.nan).numpy(), strict=True)
    scores = [score_depth(predicted, true) for predicted, true in pairs]
    return torch.tensor([score.abs_rel for score in scores]), torch.tensor([score.delta_125 for score in scores])


def _rotation_error(own: Tensor, in_a: Tensor, weights: Tensor, truth: Tensor) -> Tensor:
    """Degrees between the true rotation and that which carries b's own points to where they are in camera a."""
    errors = []
    for source, target, weight, pose in zip(own, in_a, weights, truth, strict=True):
        fitted, _ = weighted_procrustes(source.flatten(0, 1), target.flatten(0, 1), weight.flatten())
        errors.append(rotation_degrees(fitted[:3, :3].mT @ pose[:3, :3].double()))
    return torch.stack(errors)


def rotation_degrees(rotation: Tensor) -> Tensor:
    """Angle of (..., 3, 3) rotations."""
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


def _summary(measured: dict[str, Tensor], pairs: TrainingPairs) -> dict[str, float]:
    static = ~pairs.moving
    figures = {name: float(values[static].mean()) for name, values in measured.items()}
    figures["rotation_median"] = float(measured["rotation"][static].median())
    figures["rotation_if_none"] = float(rotation_degrees(pairs.a_from_b[static, :3, :3]).mean())
    return {name: round(value, 4) for name, value in figures.items()}


def pair_accuracy(backbone: Backbone, long_side: int, known_intrinsics: bool) -> dict[str, float]:
    """Means over the pairs of scenes in which nothing moves; the camera is the one that the scene was rendered with.

    known_intrinsics: give K to the backbone, as a camera_info would.
    """
    pairs = held_out_pairs(long_side, TINY.patch_size)
    rows = []
    for index in (~pairs.moving).nonzero()[:, 0].tolist():
        K = pairs.K[index].numpy().astype(np.float64)
        inputs = [_input(backbone, pairs.images[view][index].numpy(), K, view) for view in (0, 1)]
        given = inputs if known_intrinsics else [_without_intrinsics(image) for image in inputs]
        pair = backbone.decode([tuple(backbone.encode(image) for image in given)])[0]
        truth = pairs.a.each(lambda tensor, i=index: tensor[i])
        rows.append(_measure_pair(pair, inputs[1].K, truth, pairs.a_from_b[index]))
    names = rows[0].keys()
    return {name: float(np.nanmean([row[name] for row in rows])) for name in names} | {
        "rotation_median": float(np.nanmedian([row["rotation"] for row in rows])),
        "pairs": len(rows),
    }


def _input(backbone: Backbone, image: np.ndarray, K: np.ndarray, index: int) -> NetworkInput:
    frame = Frame(index, index * STEP_NS, "camera", image, K)
    return prepare(frame, backbone.input_spec, PreprocessConfig())


def _without_intrinsics(image: NetworkInput) -> NetworkInput:
    return replace(image, K=None, frame=replace(image.frame, K=None))


def _measure_pair(pair: PairGeometry, K: np.ndarray, truth: Direction, a_from_b: torch.Tensor) -> dict[str, float]:
    """K: (3, 3) true intrinsics in pixels of the pair's maps; a_from_b: (4, 4) true."""
    estimate = torch.nn.functional.interpolate(pair.points_a[None, None, ..., 2], truth.points.shape[:2])[0, 0]
    confident = torch.nn.functional.interpolate(pair.conf_a[None, None], truth.points.shape[:2])[0, 0] > 1.0
    known = torch.where(confident, estimate, torch.nan).numpy()
    true_depth = torch.where(truth.points[..., 2].isfinite(), truth.points[..., 2], torch.nan).numpy()
    try:
        depth = score_depth(known, true_depth)
    except ValueError:  # no parallax, and the backbone needs it
        depth = DepthScore(float("nan"), float("nan"), float("nan"), 0.0)
    sample = pair_sample(pair)
    b_from_a = pair_pose(sample, torch.ones_like(sample.conf_b), K)
    error = b_from_a @ a_from_b.double()  # the identity, if it were right
    true_step = a_from_b[:3, 3].double()
    found_step = torch.linalg.inv(b_from_a)[:3, 3]
    long_enough = true_step.norm() > MIN_STEP * truth.points[..., 2][truth.points[..., 2].isfinite()].median()
    cosine = torch.nn.functional.cosine_similarity(true_step, found_step, dim=0).clamp(-1, 1)
    return {
        "abs_rel": depth.abs_rel,
        "delta_125": depth.delta_125,
        "coverage": depth.coverage,
        "rotation": float(rotation_degrees(error[:3, :3])),
        "rotation_if_none": float(rotation_degrees(a_from_b[:3, :3])),
        "direction": float(torch.rad2deg(cosine.acos())) if long_enough else float("nan"),
    }
