"""One training step: both orders of a batch of pairs through the network, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easi3r_lab.training.attention_matches import recorded_matching
from easi3r_lab.training.losses import matching_loss, motion_loss, regression_loss
from easi3r_lab.training.pairs import Direction, TrainingPairs
from easi3r_lab.training.plan import TrainingPlan
from easi3r_ros.core.dust3r.network import Dust3rNetwork


@dataclass(frozen=True)
class TrainingAnswers:
    """What the network says about B pairs in both orders: rows 0..B-1 are (a, b), rows B..2B-1 are (b, a)."""

    points: tuple[Tensor, Tensor]  # of the first and of the second view, (2B, h, w, 3), in the first view's camera
    confidence: tuple[Tensor, Tensor]  # (2B, h, w)
    matching: tuple[list[Tensor], list[Tensor]]  # per layer (2B, N, N): tower 1 looks from first to second, 2 back
    motion: tuple[Tensor, Tensor]  # logits (2B, h, w)


def answer(network: Dust3rNetwork, pairs: TrainingPairs) -> TrainingAnswers:
    images = torch.cat(pairs.images).permute(0, 3, 1, 2).float() / 127.5 - 1  # (2B, h, w, 3) -> (2B, 3, h, w)
    patch = network.config.patch_size
    grid = images.shape[-2] // patch, images.shape[-1] // patch
    tokens_a, tokens_b = network.encode(images).chunk(2)
    with recorded_matching(network) as matching:
        decoded = network.decode(torch.cat((tokens_a, tokens_b)), torch.cat((tokens_b, tokens_a)), grid)
    with torch.autocast(images.device.type, enabled=False):  # heads in float32 (METHOD 2)
        points_1, points_2, confidence_1, confidence_2 = network.pointmaps(decoded)
        motion = network.motion(decoded)
    return TrainingAnswers((points_1, points_2), (confidence_1, confidence_2), matching, motion)


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
    motion = sum(
        motion_loss(logits, view.moves, view.known)
        for logits, view in zip(answers.motion, (first, second), strict=True)
    )
    total = regression + plan.matching_weight * matching_mean + plan.motion_weight * motion
    parts = {"points": error, "matching": matching_mean.detach(), "motion": motion.detach() / 2}
    return total, parts


def _both_orders(pairs: TrainingPairs) -> tuple[Direction, Direction]:
    """Truth of the first and the second view of (a, b) and (b, a), as the rows of `TrainingAnswers`."""
    return pairs.a.followed_by(pairs.b), pairs.b.followed_by(pairs.a)
