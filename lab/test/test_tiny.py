"""The laboratory's checkpoint through the product's network path, which has no special code for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from easi3r_lab.eval.synthetic_clips import ClipSpec, evaluate, render
from easi3r_lab.tiny import WEIGHTS
from easi3r_lab.training.plan import TINY
from safetensors.torch import load_file

from easi3r_ros.core.backbone import build_backbone
from easi3r_ros.core.config import BackboneConfig, PipelineConfig, PreprocessConfig, with_settings
from easi3r_ros.core.dust3r.checkpoints import load_network, network_config
from easi3r_ros.core.preprocess import prepare
from easi3r_ros.core.types import Frame

MEGABYTES = 7  # the most that the weights may take
SPEC = ClipSpec("static", 4, frames=14, size=(128, 96), rate=10.0)


@pytest.fixture(scope="module")
def clip():
    return render(SPEC)


@pytest.fixture(scope="module")
def backbone():
    return build_backbone(BackboneConfig(checkpoint=str(WEIGHTS)))


def frame_of(picture) -> Frame:
    return Frame(picture.index, round(picture.seconds * 1e9), "camera", picture.image, picture.view.K)


def test_it_is_the_network_of_the_plan_and_nothing_else():
    """Strictly loaded: every tensor of the file is one of the network's, and none is missing."""
    assert network_config(json.loads((WEIGHTS / "config.json").read_text())) == TINY
    network, _ = load_network(WEIGHTS)
    stored = load_file(WEIGHTS / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert not [name for name in stored if "motion" in name]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, stored[name].float(), rtol=0, atol=0, msg=name)
    assert (WEIGHTS / "model.safetensors").stat().st_size < MEGABYTES * 1e6


def test_its_pairs_have_depth_and_a_camera(backbone, clip):
    """Better than knowing nothing: depth that follows the truth, and a rotation nearer to the true one than none."""
    pictures = clip[0], clip[4]
    features = [backbone.encode(prepare(frame_of(p), backbone.input_spec, PreprocessConfig())) for p in pictures]
    pair, back = backbone.decode([(features[0], features[1]), (features[1], features[0])])
    assert pair.points_a.shape == pair.points_b.shape == (72, 96, 3)
    assert pair.evidence.attention is not None
    true = torch.from_numpy(clip[0].depth)[None, None]
    true = torch.nn.functional.interpolate(true, (72, 96))[0, 0].flatten().numpy()
    assert np.corrcoef(np.log(pair.points_a[..., 2].clamp(min=1e-3).flatten().numpy()), np.log(true))[0, 1] > 0.5
    assert not torch.allclose(pair.points_b, back.points_b)


def test_it_tracks_a_rendered_walk(clip):
    config = with_settings(PipelineConfig(), {"backbone.checkpoint": str(WEIGHTS)})
    score = evaluate(SPEC, clip, config)
    assert score.backbone == "dust3r"
    assert score.placed > 0.8
    assert score.false_percent < 2
    assert score.abs_rel < 0.5
