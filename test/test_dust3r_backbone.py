"""The backbone: frames and pairs in the pipeline's types, masks by frame, batches, devices and precisions."""

import numpy as np
import pytest
import torch
from helpers_dust3r import SMALL, SMALL_LINEAR, noise_images, one_thread, small_backbone  # noqa: F401

from easi3r_ros.core.config import BackboneConfig, ConfigError
from easi3r_ros.core.dust3r.generated import generated_network, write_generated_checkpoint
from easi3r_ros.core.dust3r.inference import Dust3rBackbone, normalised_image, token_mask
from easi3r_ros.core.dust3r.network import NetworkConfig
from easi3r_ros.core.types import InputSpec

HEIGHT, WIDTH = 48, 80


@pytest.fixture(scope="module")
def backbone():
    return small_backbone(batch_size=2)


@pytest.fixture(scope="module")
def features(backbone):
    return [backbone.encode(image) for image in noise_images(3, HEIGHT, WIDTH)]


def answers(pair):
    attention = pair.evidence.attention
    return pair.points_a, pair.points_b, pair.conf_a, pair.conf_b, attention.source, attention.reference


def left_half():
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, : WIDTH // 2] = True
    return mask


def test_shapes_types_and_indices(backbone, features):
    (pair,) = backbone.decode([(features[2], features[0])])
    assert pair.edge == (2, 0)
    assert features[0].grid == (3, 5) and features[0].tokens.shape == (15, 32)
    assert pair.points_a.shape == pair.points_b.shape == (HEIGHT, WIDTH, 3)
    assert pair.conf_a.shape == pair.conf_b.shape == (HEIGHT, WIDTH)
    assert pair.evidence.attention.source.shape == (3, 5, SMALL.decoder_depth * SMALL.decoder_heads)
    assert {x.dtype for x in answers(pair)} == {torch.float32}
    assert pair.evidence.motion is None
    assert not any(x.requires_grad for x in answers(pair))


def test_roles_are_not_mixed_up(backbone, features):
    """The source statistic of (a, b) lives on b; swapping the views must not just swap the answers."""
    forth, back = backbone.decode([(features[0], features[1]), (features[1], features[0])])
    decoded = backbone.network.decode(features[0].tokens[None], features[1].tokens[None], (3, 5))
    assert torch.allclose(forth.evidence.attention.source, decoded.source[0], atol=1e-5)
    assert torch.allclose(forth.evidence.attention.reference, decoded.reference[0], atol=1e-5)
    assert not torch.allclose(forth.evidence.attention.source, back.evidence.attention.reference, atol=1e-3)


def test_batches_do_not_change_answers(backbone, features):
    pairs = [(features[a], features[b]) for a, b in ((0, 1), (1, 0), (1, 2), (2, 0), (0, 2))]
    masks = {0: left_half(), 1: ~left_half(), 2: torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)}
    for given in (None, masks):
        together = backbone.decode(pairs, given)
        alone = [answer for pair in pairs for answer in backbone.decode([pair], given)]
        assert [pair.edge for pair in together] == [(0, 1), (1, 0), (1, 2), (2, 0), (0, 2)]
        for a, b in zip(together, alone, strict=True):
            assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(answers(a), answers(b), strict=True))


def test_a_mask_of_the_source_changes_the_pair_and_only_with_both_masks(backbone, features):
    pair, nothing = [(features[0], features[1])], torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    (plain,) = backbone.decode(pair)
    (masked,) = backbone.decode(pair, {0: nothing, 1: left_half()})
    assert not torch.allclose(plain.points_a, masked.points_a, atol=1e-5)
    for without_effect in ({}, {1: left_half()}, {0: left_half(), 1: nothing}):
        (same,) = backbone.decode(pair, without_effect)
        assert all(torch.equal(x, y) for x, y in zip(answers(plain), answers(same), strict=True))


def test_no_pairs_no_answers(backbone):
    assert backbone.decode([]) == []


def test_a_token_is_dynamic_if_any_of_its_pixels_is():
    mask = torch.zeros(32, 48, dtype=torch.bool)
    mask[15, 16] = mask[31, 47] = True
    assert token_mask(mask, 16).tolist() == [False, True, False, False, False, True]


def test_images_become_minus_one_to_one():
    image = np.array([[[0, 255, 51]]], np.uint8)
    assert torch.allclose(normalised_image(image)[:, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_bad_input_is_refused(backbone, features):
    with pytest.raises(ValueError, match="does not consist of patches of 16"):
        backbone.encode(noise_images(1, 50, 80)[0])
    with pytest.raises(ValueError, match="different sizes"):
        backbone.decode([(features[0], backbone.encode(noise_images(1, 80, 48)[0]))])
    with pytest.raises(ValueError, match="mask of frame 1"):
        backbone.decode([(features[0], features[1])], {0: left_half(), 1: left_half()[:16]})


def test_overflow_is_an_error_that_says_what_to_do():
    backbone = small_backbone(dtype="float16")
    with torch.no_grad():
        backbone.network.enc_norm.weight.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="bfloat16 or float32"):
        backbone.encode(noise_images(1, 32, 32)[0])


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (SMALL, InputSpec(512, 16, False)),
        (NetworkConfig(**{**SMALL_LINEAR.__dict__, "image_size": (224, 224)}), InputSpec(224, 16, True)),
    ],
    ids=["512", "224"],
)
def test_input_spec(config, spec):
    assert small_backbone(config).input_spec == spec


def test_precisions():
    assert small_backbone().encode(noise_images(1, 32, 32)[0]).tokens.dtype == torch.float32
    backbone = small_backbone(dtype="bfloat16")
    features = [backbone.encode(image) for image in noise_images(2, 32, 32)]
    assert features[0].tokens.dtype == torch.bfloat16
    (pair,) = backbone.decode([tuple(features)])
    assert {x.dtype for x in answers(pair)} == {torch.float32}


def test_from_checkpoint(tmp_path, features, backbone):
    write_generated_checkpoint(SMALL_LINEAR, tmp_path / "net.pth")
    loaded = Dust3rBackbone.from_checkpoint(BackboneConfig(checkpoint=str(tmp_path / "net.pth"), device="cpu"))
    assert torch.equal(loaded.encode(features[0].input).tokens, features[0].tokens)
    assert not loaded.metric


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(device):
    with pytest.raises(ConfigError, match=f"'{device}' is not available"):
        Dust3rBackbone.from_checkpoint(BackboneConfig(checkpoint="nowhere.pth", device=device))


def test_the_network_is_not_copied():
    network = generated_network(SMALL_LINEAR)
    assert Dust3rBackbone(network, BackboneConfig(device="cpu")).network is network


def test_pointmaps_asked_for_later_are_those_of_decode(backbone, features):
    pairs = [(features[a], features[b]) for a, b in ((0, 1), (1, 0), (1, 2), (2, 0), (0, 2))]
    masks = {0: left_half(), 1: ~left_half(), 2: left_half()}
    for given in (None, masks):
        attended = backbone.attend(pairs, given)
        assert not any(hasattr(answer, "points_a") for answer in attended)
        some = backbone.pointmaps([attended[i] for i in (3, 0, 2)])  # across batches, in another order
        for i, answer in zip((3, 0, 2), some, strict=True):
            (whole,) = backbone.decode([pairs[i]], given)
            assert answer.edge == whole.edge
            assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(answers(answer), answers(whole), strict=True))
        assert backbone.pointmaps(some)[1] is some[1]


def test_the_second_pass_decodes_only_the_pairs_that_it_changes(backbone, features, monkeypatch):
    nothing, everything = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool), torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    pairs = [(features[a], features[b]) for a, b in ((0, 1), (1, 0), (2, 0), (0, 2), (1, 2))]
    first = backbone.attend(pairs)
    masks = {0: left_half(), 1: nothing, 2: everything}
    whole = backbone.attend(pairs, masks)
    decoded = []
    decode_batch = backbone._decode_batch
    monkeypatch.setattr(
        backbone, "_decode_batch", lambda some, given: decoded.extend(some) or decode_batch(some, given)
    )
    again = backbone.attend(pairs, masks, first)
    assert [(a.index, b.index) for a, b in decoded] == [(1, 0), (0, 2), (1, 2)]
    assert [answer is earlier for answer, earlier in zip(again, first, strict=True)] == [
        True,
        False,
        True,
        False,
        False,
    ]
    for ours, reference in zip(backbone.pointmaps(again), backbone.pointmaps(whole), strict=True):
        assert ours.edge == reference.edge
        assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(answers(ours), answers(reference), strict=True))


def test_masks_that_change_no_pair_leave_the_first_pass_as_it_is(backbone, features):
    nothing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    pairs = [(features[0], features[1])]
    first = backbone.attend(pairs)
    for masks in ({}, {1: left_half()}, {0: left_half(), 1: nothing}, {0: ~nothing, 1: left_half()}):
        assert backbone.attend(pairs, masks, first) is first


def test_warming_up_finds_a_network_whose_answers_are_no_numbers():
    backbone = small_backbone()
    backbone.warm_up((48, 80), 4)
    with torch.no_grad():
        backbone.network.dec_norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="no numbers"):
        backbone.warm_up((48, 80), 4)
