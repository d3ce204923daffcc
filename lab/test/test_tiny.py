"""The laboratory's checkpoint through the product's network path, which has no special code for it."""

from __future__ import annotations

import json

import pytest
import torch
from easi3r_lab.eval.synthetic_clips import ClipSpec, evaluate, render
from easi3r_lab.tiny import WEIGHTS
from easi3r_lab.training import held_out
from easi3r_lab.training.plan import TINY
from safetensors.torch import load_file

from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.dust3r.checkpoints import load_network, network_config

MEGABYTES = 7  # the most that the weights may take
SPEC = ClipSpec("static", 4, frames=10, size=(128, 96), rate=10.0)


@pytest.fixture(scope="module")
def network():
    return load_network(WEIGHTS)[0].eval()


def test_it_is_the_network_of_the_plan_and_nothing_else(network):
    """Strictly loaded: every tensor of the file is one of the network's, and none is missing."""
    assert network_config(json.loads((WEIGHTS / "config.json").read_text())) == TINY
    stored = load_file(WEIGHTS / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert not [name for name in stored if "motion" in name]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, stored[name].float(), rtol=0, atol=0, msg=name)
    assert (WEIGHTS / "model.safetensors").stat().st_size < MEGABYTES * 1e6


def test_it_knows_depth_and_finds_tokens(network, monkeypatch):
    """On a dozen held-out scenes: depth much nearer than one depth for every pixel, and nearly every token's match."""
    monkeypatch.setattr(held_out, "SCENES", 12)
    held_out.held_out_pairs.cache_clear()
    figures = held_out.network_figures(network, 96, torch.device("cpu"))
    pairs = held_out.held_out_pairs(96, TINY.patch_size)
    held_out.held_out_pairs.cache_clear()
    depth = pairs.a.points[..., 2][~pairs.moving]
    constant, _ = held_out._depth_error(torch.ones_like(depth), depth)
    assert figures["abs_rel"] < 0.27 < 0.6 * constant.mean()
    assert figures["hit"] > 0.9


def test_it_tracks_a_rendered_walk():
    config = with_settings(PipelineConfig(), {"backbone.checkpoint": str(WEIGHTS)})
    score = evaluate(SPEC, render(SPEC), config)
    assert score.backbone == "dust3r"
    assert score.placed > 0.8
    assert score.false_percent < 2
    assert score.abs_rel < 0.5
