"""Weights made from names (golden README, section 1)."""

import numpy as np
import pytest
import torch
from helpers_dust3r import SMALL

from easi3r_ros.core.dust3r.checkpoints import canonical_name
from easi3r_ros.core.dust3r.generated import generated_network, generated_tensor, random_network


def test_values_depend_on_name_and_salt_only():
    first = generated_tensor("enc_norm.bias", (64,))
    assert torch.equal(first, generated_tensor("enc_norm.bias", (64,)))
    assert not torch.equal(first, generated_tensor("enc_norm.bias", (64,), salt="x"))
    assert torch.equal(generated_tensor("b.bias", (8,), salt="a"), generated_tensor("ab.bias", (8,)))


@pytest.mark.parametrize(
    ("name", "shape", "mean", "std"),
    [
        ("enc_blocks.3.attn.qkv.weight", (384, 256), 0, 1.5 / 16),
        ("dec_blocks.3.cross_attn.projk.weight", (256, 256), 0, 1.5 / 16),
        ("dec_blocks.3.cross_attn.projv.weight", (256, 256), 0, 1 / 16),
        ("downstream_head1.dpt.head.4.weight", (4, 4096, 1, 1), 0, 0.2 / 64),
        ("patch_embed.proj.weight", (256, 4, 8, 8), 0, 1 / 16),
        ("enc_norm.weight", (10000,), 1, 0.02),
        ("enc_norm.bias", (10000,), 0, 0.02),
    ],
)
def test_scale(name, shape, mean, std):
    values = generated_tensor(name, shape).numpy()
    assert values.dtype == np.float32
    assert abs(values.mean() - mean) < 4 * std / values.size**0.5
    assert abs(values.std() / std - 1) < 0.05


def test_aliases_share_the_first_name():
    assert (
        canonical_name("downstream_head1.dpt.scratch.layer_rn.0.weight")
        == "downstream_head1.dpt.scratch.layer1_rn.weight"
    )
    assert canonical_name("downstream_head1.dpt.scratch.layer1_rn.weight").endswith("layer1_rn.weight")


def test_random_networks_have_the_spread_of_generated_ones_and_repeat():
    ours, again = (random_network(SMALL, torch.device("cpu")).state_dict() for _ in range(2))
    reference = generated_network(SMALL).state_dict()
    for name, values in reference.items():
        assert torch.equal(ours[name], again[name])
        if values.numel() > 500:
            assert ours[name].std() == pytest.approx(float(values.std()), rel=0.2)
            assert ours[name].mean() == pytest.approx(float(values.mean()), abs=0.2 * float(values.std()))
