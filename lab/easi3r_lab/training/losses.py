"""What the network is trained to do: pointmaps with a confidence, matches, and which pixels move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CONFIDENCE_REWARD = 1.0  # alpha of DUSt3R eq. 4: the best confidence is alpha over the error, and 1 says nothing
NEAREST = 0.3  # of the mean distance: relative errors of nearer points count as at this distance
SKY_CAUTION = 0.05  # weight of the demand for low confidence where there is nothing to measure


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


def motion_loss(logits: Tensor, moves: Tensor, known: Tensor, positive_weight: float = 2.0) -> Tensor:
    """Binary cross-entropy (D2USt3R's dynamic head). logits: (B, h, w); moves: bool; known: bool, pixels that count."""
    loss = F.binary_cross_entropy_with_logits(
        logits, moves.float(), reduction="none", pos_weight=logits.new_tensor(positive_weight)
    )
    return (loss * known).sum() / known.sum().clamp(min=1)
