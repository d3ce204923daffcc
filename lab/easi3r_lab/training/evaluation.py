"""How good a network is on rendered pairs that training never sees."""

from __future__ import annotations

from functools import lru_cache

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from easi3r_lab.eval import depth as depth_eval
from easi3r_lab.synthetic.training import training_views
from easi3r_lab.training.pairs import TrainingPairs, training_pairs
from easi3r_lab.training.plan import EVALUATION_SEED
from easi3r_lab.training.step import TrainingAnswers, answer
from easi3r_ros.core.dust3r.network import Dust3rNetwork
from easi3r_ros.core.geometry import weighted_procrustes

SCENES = 64
VIEWS = 4
EDGES = ((0, 1), (3, 1))  # a small and a larger step
CHUNK = 16  # pairs at once


@lru_cache(maxsize=4)
def held_out_pairs(long_side: int, patch: int, seed: int = EVALUATION_SEED) -> TrainingPairs:
    """Pairs (B = scenes x edges) of scenes beyond training's seeds, 4:3."""
    views = training_views(seed, SCENES, VIEWS, (long_side, long_side * 3 // 4))
    return training_pairs(views, EDGES, patch)


@torch.no_grad()
def evaluate(network: Dust3rNetwork, long_side: int, device: torch.device) -> dict[str, float]:
    """Figures of the held-out pairs at this size, rounded for a log."""
    pairs = held_out_pairs(long_side, network.config.patch_size)
    rows: dict[str, list[Tensor]] = {}
    for chunk in torch.arange(len(pairs)).split(CHUNK):
        part = pairs.select(chunk)
        answers = answer(network, part.to(device))
        for name, values in _measure(answers, part).items():
            rows.setdefault(name, []).append(values)
    measured = {name: torch.cat(values) for name, values in rows.items()}
    return _summary(measured, pairs)


def _measure(answers: TrainingAnswers, pairs: TrainingPairs) -> dict[str, Tensor]:
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
        "motion": answers.motion[0][:count].cpu().sigmoid(),
    }


def _depth_error(depth: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """AbsRel and share of delta < 1.25 of each image, scaled by the ratio of the medians."""
    # Depth behind the camera counts as nearest, not as unknown.
    pairs = zip(depth.clamp(min=1e-6).numpy(), torch.where(truth.isfinite(), truth, torch.nan).numpy(), strict=True)
    scores = [depth_eval.score(predicted, true) for predicted, true in pairs]
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
    motion, moves, known = measured.pop("motion"), pairs.a.moves, pairs.a.known
    figures = {f"{name}": float(values[static].mean()) for name, values in measured.items()}
    figures["rotation_median"] = float(measured["rotation"][static].median())
    figures["rotation_if_none"] = float(rotation_degrees(pairs.a_from_b[static, :3, :3]).mean())
    predicted = (motion > 0.5)[pairs.moving]
    true, clear = moves[pairs.moving], known[pairs.moving]
    overlap, union = (predicted & true & clear).sum((1, 2)), ((predicted | true) & clear).sum((1, 2))
    figures["motion_iou"] = float((overlap / union.clamp(min=1))[true.flatten(1).any(1)].mean())
    figures["motion_auc"] = float(roc_auc_score(true[clear].numpy(), motion[pairs.moving][clear].numpy()))
    figures["motion_false"] = float((motion > 0.5)[static].float().mean())
    return {name: round(value, 4) for name, value in figures.items()}
