"""Constructor text of checkpoints: read as data, whatever it says."""

import json
import logging
import math
from dataclasses import replace

import pytest
from helpers_dust3r import GOLDEN, SMALL, SMALL_LINEAR

from easi3r_ros.core.dust3r.checkpoints import ArgumentError, constructor_text, network_config, parse_constructor
from easi3r_ros.core.dust3r.network import NetworkConfig

MAST3R = (
    "AsymmetricMASt3R(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(512, 512), "
    "head_type='catmlp+dpt', output_mode='pts3d+desc24', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
    "enc_embed_dim=1024, enc_depth=24, enc_num_heads=16, dec_embed_dim=768, dec_depth=12, dec_num_heads=12, "
    "two_confs=True, desc_conf_mode=('exp', 0, inf))"
)


@pytest.mark.parametrize(
    ("file", "config"),
    [("dpt512", NetworkConfig()), ("linear224", NetworkConfig(head="linear", image_size=(224, 224)))],
)
@pytest.mark.parametrize("key", ["constructor_in_checkpoint", "constructor_after_official_loader"])
def test_published_texts(file, config, key):
    text = json.loads((GOLDEN / f"keys_vitl_{file}.json").read_text())[key]
    assert network_config(parse_constructor(text)) == config


def test_mast3r_is_the_same_network_with_a_dpt_head(caplog):
    assert network_config(parse_constructor(MAST3R)) == NetworkConfig()
    assert not caplog.records


def test_values_are_plain_data():
    text = "Net(a=-inf, b=(1, -2.5, 'x'), c=[True, None], d=ManyAR_PatchEmbed, e=float('inf'), f=np.inf)"
    assert parse_constructor(text) == {
        "a": -math.inf,
        "b": (1, -2.5, "x"),
        "c": (True, None),
        "d": "ManyAR_PatchEmbed",
        "e": math.inf,
        "f": math.inf,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Net(a=__import__('os').system('true'))", "not plain data"),
        ("Net(a=[x for x in ()])", "not plain data"),
        ("Net(a=(lambda: 1)())", "not plain data"),
        ("Net(a=-'x')", "not plain data"),
        ("Net(a=float('x'))", "not plain data"),
        ("Net(a=1 + 1)", "not plain data"),
        ("Net(512)", "only keyword arguments"),
        ("Net(**{'a': 1})", "only keyword arguments"),
        ("Net", "not a constructor call"),
        ("import os", "not a Python expression"),
        ("Net(a=1", "not a Python expression"),
        ("Net(a=\x00)", "not a Python expression"),
        ("", "not a Python expression"),
        ("(" * 5000, "not a Python expression"),
        ("Net(a=" + "-" * 5000 + "1)", "not a Python expression"),
        ("Net(a='" + "x" * 20_000 + "')", "20009 characters"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(ArgumentError, match=message):
        parse_constructor(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_type": "gaussian"}, "head_type is 'gaussian'"),
        ({"head_type": ["dpt"]}, "head_type is"),
        ({"pos_embed": "cosine"}, "pos_embed is 'cosine'"),
        ({"depth_mode": ("linear", -math.inf, math.inf)}, "depth_mode"),
        ({"depth_mode": 3}, "depth_mode"),
        ({"conf_mode": ("sigmoid", 0, 1)}, "conf_mode"),
        ({"norm_im2_in_dec": False}, "norm_im2_in_dec"),
        ({"enc_depth": "many"}, "many"),
        ({"enc_depth": None}, "NoneType"),
        ({"img_size": (1, 2, 3)}, "unpack"),
        ({"enc_num_heads": 7}, "encoder width"),
    ],
)
def test_networks_that_compute_something_else_are_refused(change, message):
    with pytest.raises(ArgumentError, match=message):
        network_config({"head_type": "dpt", "pos_embed": "RoPE100", **change})


def test_json_spellings():
    arguments = {
        "head_type": "linear",
        "img_size": 224,
        "depth_mode": ["exp", "-inf", "inf"],
        "conf_mode": ["exp", "1", "inf"],
    }
    assert network_config(arguments) == NetworkConfig(head="linear", image_size=(224, 224))
    spelled = json.loads(
        '{"img_size": ["512", "384"], "depth_mode": ["exp", -Infinity, Infinity], "pos_embed": "RoPE50"}'
    )
    assert network_config(spelled) == NetworkConfig(head="linear", image_size=(512, 384), rope_base=50.0)


def test_unknown_arguments_are_logged(caplog):
    with caplog.at_level(logging.WARNING):
        network_config({"flash": True})
    assert "flash" in caplog.text


@pytest.mark.parametrize(
    "config", [SMALL, SMALL_LINEAR, replace(SMALL_LINEAR, patch_size=8, rope_base=50.0, mlp_ratio=2.5)]
)
def test_written_texts_are_read_back(config):
    assert network_config(parse_constructor(constructor_text(config))) == config
