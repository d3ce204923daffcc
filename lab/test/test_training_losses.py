"""Losses and matching targets: what they ignore, where their minimum is, and that they see what attention sees."""

import pytest
import torch
from easi3r_lab.training.losses import CONFIDENCE_REWARD, matching_loss, regression_loss
from easi3r_lab.training.matching import MATCHING_HEAD, head_logits, token_targets

from easi3r_ros.core.dust3r.network import CrossAttention, rotary_table

GRID = (3, 4)


def loss_and_error(predicted, confidence, truth):
    return regression_loss(predicted, confidence, truth, weight=3.0)


def points(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 6, 8, 3, generator=generator) + torch.tensor([0.0, 0.0, 1.0])


def ones() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(2, 6, 8), torch.ones(2, 6, 8)


def test_scale_of_a_pair_costs_nothing():
    truth = points(0), points(1)
    scale = torch.tensor([0.1, 7.0])[:, None, None, None]
    loss, error = loss_and_error(tuple(view * scale for view in truth), ones(), truth)
    assert float(loss) == pytest.approx(0.0, abs=1e-5)
    assert float(error) == pytest.approx(0.0, abs=1e-5)


def test_relative_scale_of_the_two_views_costs():
    truth = points(0), points(1)
    _, error = loss_and_error((truth[0], 1.5 * truth[1]), ones(), truth)
    assert float(error) > 0.1


def test_sky_only_asks_for_caution():
    truth = points(0), points(1)
    predicted = tuple(view.clone() for view in truth)
    truth[0][:, :3] = torch.inf
    predicted[0][:, :3] = 100.0
    _, error = loss_and_error(predicted, ones(), truth)
    assert float(error) == pytest.approx(0.0, abs=1e-5)
    confidence = torch.full((2, 6, 8), 1.0)
    confidence[:, :3] = 5.0
    bold, _ = loss_and_error(predicted, (confidence, ones()[1]), truth)
    cautious, _ = loss_and_error(predicted, ones(), truth)
    assert bold > cautious


def test_confidence_pays_where_the_error_is_small():
    truth = points(0), points(1)
    wrong = truth[0] + 2.0 * torch.randn(truth[0].shape, generator=torch.Generator().manual_seed(2)), truth[1]
    high = tuple(torch.full((2, 6, 8), 4.0) for _ in range(2))
    assert loss_and_error(truth, high, truth)[0] == pytest.approx(-2 * CONFIDENCE_REWARD * torch.tensor(4.0).log())
    assert loss_and_error(wrong, high, truth)[0] > loss_and_error(wrong, ones(), truth)[0]


def test_the_error_weighs_the_same_whatever_the_confidence():
    truth = points(0), points(1)

    def gradients(level: float) -> tuple[torch.Tensor, torch.Tensor]:
        predicted = (truth[0] + 0.1).requires_grad_()
        confidence = torch.full((2, 6, 8), level, requires_grad=True)
        loss, _ = loss_and_error((predicted, truth[1]), (confidence, ones()[1]), truth)
        return torch.autograd.grad(loss, (predicted, confidence))

    (bold, of_bold), (cautious, of_cautious) = gradients(50.0), gradients(1.0)
    torch.testing.assert_close(bold, cautious)
    assert bold.abs().max() > 0
    assert (of_bold > 0).all() and (of_cautious < 0).all()  # towards alpha over the error, from either side


def test_matching_is_best_at_the_truth_and_blind_to_hidden_tokens():
    tokens = GRID[0] * GRID[1]
    indices = torch.arange(tokens)[None, :, None].expand(1, tokens, 4)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, tokens, 4)
    visible = torch.ones(1, tokens, dtype=torch.bool)
    sharp = 20.0 * torch.eye(tokens)[None]
    assert matching_loss(sharp, indices, weights, visible) < 1e-4
    assert matching_loss(torch.zeros_like(sharp), indices, weights, visible) == pytest.approx(
        torch.tensor(float(tokens)).log()
    )
    wrong = sharp.roll(1, dims=-1)
    half = visible.clone()
    half[:, :6] = False
    mixed = torch.cat((wrong[:, :6], sharp[:, 6:]), dim=1)
    assert matching_loss(mixed, indices, weights, half) < 1e-4


def test_token_centres_are_their_own_target():
    rows, columns = torch.meshgrid(torch.arange(GRID[0]), torch.arange(GRID[1]), indexing="ij")
    centres = torch.stack((columns, rows), dim=-1).flatten(0, 1) * 8 + 3.5
    indices, weights = token_targets(centres, GRID, patch=8)
    best = indices.gather(1, weights.argmax(1, keepdim=True))[:, 0]
    assert best.tolist() == list(range(12))
    assert weights.amax(1) == pytest.approx(torch.ones(12))


def test_targets_between_tokens_are_bilinear():
    indices, weights = token_targets(torch.tensor([[3.5 + 2.0, 3.5 + 4.0]]), GRID, patch=8)
    share = {int(index): float(weight) for index, weight in zip(indices[0], weights[0], strict=True)}
    assert share == pytest.approx({0: 0.375, 1: 0.125, 4: 0.375, 5: 0.125})


def test_matching_logits_are_those_of_the_attention():
    torch.manual_seed(0)
    attention = CrossAttention(width=32, heads=2)
    x, memory, rotary = torch.randn(1, 12, 32), torch.randn(1, 12, 32), rotary_table(GRID, 16, 100.0)
    q, k = attention.queries_and_keys(x, memory, rotary)
    expected = (q @ k.mT)[:, MATCHING_HEAD] / 4.0  # sqrt of 16 channels
    torch.testing.assert_close(head_logits(attention, x, memory, rotary), expected)
