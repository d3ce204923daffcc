"""What the network is trained to do, pointmaps with a confidence and matches, and what one step of it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easi3r_lab.training.matching import recorded_matching
from easi3r_lab.training.pairs import Direction, TrainingPairs
from easi3r_lab.training.plan import TrainingPlan
from easi3r_ros.core.dust3r.network import Dust3rNetwork

CONFIDENCE_REWARD = 1.0  # alpha of DUSt3R eq. 4: the best confidence is alpha over the error, and 1 says nothing
NEAREST = 0.3  # of the mean distance: relative errors of nearer points count as at this distance
SKY_CAUTION = 0.05  # weight of the demand for low confidence where there is nothing to measure


@dataclass(frozen=True)
class TrainingAnswers:
    """What the network says about B pairs in both orders: rows 0..B-1 are (a, b), rows B..2B-1 are (b, a)."""

    points: tuple[Tensor, Tensor]  # of the first and of the second view, (2B, h, w, 3), in the first view's camera
    confidence: tuple[Tensor, Tensor]  # (2B, h, w)
    matching: tuple[list[Tensor], list[Tensor]]  # per layer (2B, N, N): tower 1 looks from first to second, 2 back


def answer(network: Dust3rNetwork, pairs: TrainingPairs) -> TrainingAnswers:
    images = torch.cat(pairs.images).permute(0, 3, 1, 2).float() / 127.5 - 1  # (2B, h, w, 3) -> (2B, 3, h, w)
    patch = network.config.patch_size
    grid = images.shape[-2] // patch, images.shape[-1] // patch
    tokens_a, tokens_b = network.encode(images).chunk(2)
    with recorded_matching(network) as matching:
        decoded = network.decode(torch.cat((tokens_a, tokens_b)), torch.cat((tokens_b, tokens_a)), grid)
    with torch.autocast(images.device.type, enabled=False):  # heads in float32 (METHOD 2)
        points_1, points_2, confidence_1, confidence_2 = network.pointmaps(decoded)
    return TrainingAnswers((points_1, points_2), (confidence_1, confidence_2), matching)


def losses(answers: TrainingAnswers, pairs: TrainingPairs, plan: TrainingPlan) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum to minimise, and its parts for the log."""
    first, second = _both_orders(pairs)
    truth = first.points, second.points_in_other
    regression, error = regression_loss(answers.points, answers.confidence, truth, plan.point_weight)
    towers = zip(answers.matching, (first, second), strict=True)
    matching = [
        matching_loss(logits.float(), view.indices, view.weights, view.visible)
        for layers, view in towers
        for logits in layers
    ]
    matching_mean = torch.stack(matching).mean()
    total = regression + plan.matching_weight * matching_mean
    return total, {"points": error, "matching": matching_mean.detach()}


def _both_orders(pairs: TrainingPairs) -> tuple[Direction, Direction]:
    """Truth of the first and the second view of (a, b) and (b, a), as the rows of `TrainingAnswers`."""
    return pairs.a.followed_by(pairs.b), pairs.b.followed_by(pairs.a)


def regression_loss(
    predicted: tuple[Tensor, Tensor], confidence: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor], weight: float
) -> tuple[Tensor, Tensor]:
    """Pointmap error of both views and the cost of their confidence (DUSt3R eq. 2-4), and the plain error for the log.

    predicted, truth: points (B, h, w, 3) of a and b in camera a; truth is not finite where nothing is seen (sky).
    confidence: (B, h, w) >= 1. weight: of the error beside what the confidence costs. Each pair is divided by its own
    mean distance; errors count relative to the true distance, because a robot needs near things as exactly in
    proportion as far ones.

    DUSt3R eq. 4 lets the confidence weigh the error. The best confidence is alpha over the error, so that sum minimises
    its logarithm: it polishes what is nearly right. Here the confidence learns from the error as it is, and every
    pixel's error weighs the same.
    """
    valid = [points[..., 2].isfinite() for points in truth]
    true = [points.nan_to_num(0.0, 0.0, 0.0) for points in truth]
    scale_predicted = _mean_distance(predicted, valid)
    scale_true = _mean_distance(true, valid)
    losses, errors = [], []
    for points, conf, target, seen in zip(predicted, confidence, true, valid, strict=True):
        target = target / scale_true
        error = (points / scale_predicted - target).norm(dim=-1) / target.norm(dim=-1).clamp(min=NEAREST)
        caution = conf * error.detach() - CONFIDENCE_REWARD * conf.log()
        losses.append(torch.where(seen, weight * error + caution, SKY_CAUTION * conf.log()).mean())
        errors.append((error * seen).sum() / seen.sum().clamp(min=1))
    return sum(losses), sum(errors).detach() / 2


def _mean_distance(points: Sequence[Tensor], valid: Sequence[Tensor]) -> Tensor:
    """(B, 1, 1, 1) mean distance from camera a over the valid pixels of both views."""
    total = sum((view.norm(dim=-1) * seen).sum((1, 2)) for view, seen in zip(points, valid, strict=True))
    count = sum(seen.sum((1, 2)) for seen in valid)
    return (total / count.clamp(min=1)).clamp(min=1e-3)[:, None, None, None]


def matching_loss(logits: Tensor, indices: Tensor, weights: Tensor, visible: Tensor) -> Tensor:
    """Cross-entropy of attention logits (B, N, N) against the true place of each query token in the other view.

    indices, weights: (B, N, 4) as `matching.token_targets`; visible: (B, N) bool, the queries that have a place.
    """
    log_attention = logits.log_softmax(-1).gather(-1, indices)  # (B, N, 4)
    return -((log_attention * weights).sum(-1) * visible).sum() / visible.sum().clamp(min=1)
