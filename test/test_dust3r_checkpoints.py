"""Checkpoint files: every published layout loads, everything else is refused in words, and no pickle runs code."""

import argparse
import json
import logging
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_dust3r import SMALL, SMALL_LINEAR, one_thread  # noqa: F401
from safetensors.torch import save_file

from easi3r_ros.core.dust3r.checkpoints import CheckpointError, constructor_text, load_network, read_checkpoint
from easi3r_ros.core.dust3r.generated import generated_state, write_generated_checkpoint

HUB_CONFIG = {
    "pos_embed": "RoPE100",
    "img_size": [512, 512],
    "head_type": "linear",
    "depth_mode": ["exp", float("-inf"), float("inf")],
    "conf_mode": ["exp", 1, float("inf")],
    "enc_embed_dim": 32,
    "enc_depth": 2,
    "enc_num_heads": 2,
    "dec_embed_dim": 32,
    "dec_depth": 4,
    "dec_num_heads": 2,
}


@pytest.fixture(scope="module")
def linear_state():
    return generated_state(SMALL_LINEAR)


@pytest.fixture(scope="module")
def dpt_state():
    return generated_state(SMALL)


@pytest.fixture
def save(tmp_path):
    def save(state, config=SMALL_LINEAR, name="net.pth", model=None):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        torch.save({"args": argparse.Namespace(model=model or constructor_text(config), lr=1e-4), "model": state}, path)
        return path

    return save


def assert_holds(network, state):
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def without(state, *texts):
    return {name: tensor for name, tensor in state.items() if not any(text in name for text in texts)}


def test_pth(tmp_path, dpt_state):
    write_generated_checkpoint(SMALL, tmp_path / "net.pth")
    network, checkpoint = load_network(tmp_path / "net.pth")
    assert network.config == SMALL
    assert not network.training and not checkpoint.metric
    assert_holds(network, dpt_state)


def test_hub_folder(tmp_path, linear_state):
    save_file(linear_state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(HUB_CONFIG))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        network, _ = load_network(path)
        assert network.config == SMALL_LINEAR
        assert_holds(network, linear_state)


@pytest.mark.parametrize("absent", [".layer_rn.", "_rn.weight", "mask_token"])
def test_one_of_two_names_is_enough_and_the_mask_token_is_optional(save, dpt_state, absent):
    kept = {n: t for n, t in dpt_state.items() if absent not in n or (absent == "_rn.weight" and ".layer_rn." in n)}
    assert len(kept) < len(dpt_state)
    network, _ = load_network(save(kept, SMALL))
    assert_holds(network, without(dpt_state, "mask_token"))


def test_of_two_names_the_later_one_counts(save, dpt_state):
    changed = dict(dpt_state)
    changed["downstream_head1.dpt.scratch.layer_rn.2.weight"] = torch.ones(256, 384, 3, 3)
    network, _ = load_network(save(changed, SMALL))
    assert (network.downstream_head1.dpt.scratch.layer3_rn.weight == 1).all()


def test_without_a_second_decoder_the_first_serves_both_views(save, linear_state):
    network, _ = load_network(save(without(linear_state, "dec_blocks2.")))
    for name, tensor in network.dec_blocks2.state_dict().items():
        assert torch.equal(tensor, linear_state[f"dec_blocks.{name}"])


def test_half_precision_files_become_float32(save, linear_state):
    network, _ = load_network(save({name: tensor.half() for name, tensor in linear_state.items()}))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_mast3r_descriptors_are_reported_and_left_unused(save, dpt_state, caplog):
    extra = {f"downstream_head{i}.head_local_features.fc1.weight": torch.zeros(2, 2) for i in (1, 2)}
    model = constructor_text(SMALL).replace("head_type='dpt'", "head_type='catmlp+dpt', two_confs=True")
    path = save({**dpt_state, **extra, "prediction_head.weight": torch.zeros(3)}, model=model, name="M_metric/m.pth")
    with caplog.at_level(logging.INFO):
        network, checkpoint = load_network(path)
    assert_holds(network, dpt_state)
    assert "downstream_head2.head_local_features" in caplog.text and "prediction_head" in caplog.text
    assert checkpoint.metric


@pytest.mark.parametrize(
    ("name", "metric"), [("x_metric.pth", True), ("metrics.pth", False), ("x_metrics/a.pth", False)]
)
def test_metric_networks_say_so_in_their_name(save, name, metric):
    state = {"downstream_head1.head_local_features.fc1.weight": torch.zeros(1)}
    assert read_checkpoint(save(state, name=name)).metric == metric
    assert not read_checkpoint(save({}, name=name)).metric  # no descriptors: not MASt3R


def test_every_kind_of_mismatch_is_listed(save, linear_state):
    state = without(linear_state, "enc_norm")
    state["surprise.weight"] = torch.zeros(1)
    state["dec_norm.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        load_network(save(state))
    text = str(caught.value)
    assert "2 missing (enc_norm.bias, enc_norm.weight)" in text
    assert "1 superfluous (surprise.weight)" in text
    assert "1 misshapen (dec_norm.bias (7,) instead of (32,))" in text


def test_long_lists_are_cut(save, linear_state):
    with pytest.raises(CheckpointError, match=r"24 missing \(.*, \.\.\. 18 more\)"):
        load_network(save(linear_state, replace(SMALL_LINEAR, encoder_depth=4)))


def test_a_second_decoder_must_be_complete(save, linear_state):
    with pytest.raises(CheckpointError, match=r"1 missing \(dec_blocks2.3.norm1.bias\)"):
        load_network(save(without(linear_state, "dec_blocks2.3.norm1.bias")))


class RunsCode:
    ran = False

    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    "writer", [torch.save, lambda content, path: pickle.dump(content, path.open("wb"), protocol=2)]
)
def test_pickles_that_run_code_are_refused_and_do_not_run(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    writer({"args": argparse.Namespace(model="Net()"), "model": {"a": RunsCode()}}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="refused because loading it could run code|damaged"):
        load_network("evil.pth")
    assert not (tmp_path / "pwned").exists()


def test_the_refusal_names_the_culprit(tmp_path):
    torch.save({"args": argparse.Namespace(model="Net()"), "model": {"a": RunsCode()}}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"posix.mkdir.*safetensors"):
        load_network(tmp_path / "evil.pth")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_truncated_pth(save, tmp_path, linear_state, legacy, kept):
    whole = tmp_path / "whole.pth"
    content = {"args": argparse.Namespace(model=constructor_text(SMALL_LINEAR)), "model": linear_state}
    torch.save(content, whole, _use_new_zipfile_serialization=not legacy)
    part = tmp_path / "part.pth"
    part.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * kept)])
    with pytest.raises(CheckpointError, match="damaged, cut short .* get it again"):
        load_network(part)


def test_truncated_safetensors(tmp_path, linear_state):
    path = tmp_path / "model.safetensors"
    save_file(linear_state, path)
    (tmp_path / "config.json").write_text(json.dumps(HUB_CONFIG))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: the download failed"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
        (b"\n  <html lang='en'>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"hello", "damaged"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["net.pth", "model.safetensors"])
def test_what_downloads_leave_instead_of_weights(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(HUB_CONFIG))
    with pytest.raises(CheckpointError, match=message):
        load_network(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "lacks 'args'"),
        ({"model": {}}, "lacks 'args'"),
        ({"args": argparse.Namespace(), "model": {}}, "lacks 'args'"),
        ({"args": argparse.Namespace(model="Net()")}, "lacks 'args'"),
        ({"args": argparse.Namespace(model="Net()"), "model": {"a": 1}}, "no tensors: a"),
        ({"args": argparse.Namespace(model="Net(1)"), "model": {}}, "args.model cannot be read: only keyword"),
        ({"args": argparse.Namespace(model="Net(head_type='x')"), "model": {}}, "unsupported network: head_type"),
    ],
)
def test_other_content(tmp_path, content, message):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=message):
        load_network(tmp_path / "net.pth")


def test_missing_files(tmp_path, linear_state):
    with pytest.raises(CheckpointError, match="no checkpoint at .*easi3r weights"):
        load_network(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="folder without model.safetensors"):
        load_network(tmp_path)
    save_file(linear_state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="config.json is missing"):
        load_network(tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "no constructor arguments")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load_network(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_found_when_they_are_loaded(save, linear_state, value):
    bad = dict(linear_state)
    bad["dec_norm.bias"] = torch.full_like(bad["dec_norm.bias"], value)
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors hold NaN or infinity \(dec_norm.bias\)"):
        load_network(save(bad))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.module."])
def test_prefixes_of_wrappers_are_left_out_with_a_word(save, linear_state, caplog, prefix):
    network, _ = load_network(save({f"{prefix}{name}": tensor for name, tensor in linear_state.items()}))
    assert_holds(network, linear_state)
    assert "is left out of the tensors' names" in caplog.text


def test_one_compiled_part(save, linear_state):
    renamed = {
        name.replace("enc_blocks.0.", "enc_blocks.0._orig_mod."): tensor for name, tensor in linear_state.items()
    }
    assert_holds(load_network(save(renamed))[0], linear_state)


def test_numbers_of_numpy_beside_the_weights(tmp_path, linear_state):
    options = argparse.Namespace(model=constructor_text(SMALL_LINEAR), lr=np.float64(1e-4), seed=np.int64(3))
    content = {"args": options, "model": linear_state, "epoch": np.int32(7), "best": np.float32(0.5)}
    torch.save({**content, "history": np.arange(3.0), "done": np.bool_(True)}, tmp_path / "net.pth")
    assert_holds(load_network(tmp_path / "net.pth")[0], linear_state)


def test_published_names_are_found_where_they_are_stored(tmp_path, linear_state, monkeypatch):
    monkeypatch.setenv("EASI3R_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="easi3r weights get dust3r-512-dpt"):
        load_network("dust3r-512-dpt")
    folder = tmp_path / "weights" / "DUSt3R_ViTLarge_BaseDecoder_512_dpt"
    folder.mkdir(parents=True)
    save_file(linear_state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(HUB_CONFIG))
    assert_holds(load_network("dust3r-512-dpt")[0], linear_state)
