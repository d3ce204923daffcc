"""The network: published names and shapes, rotary embedding, masking, statistics, and never an N x N matrix."""

import json
from dataclasses import replace

import pytest
import torch
from helpers_dust3r import GOLDEN, SMALL, SMALL_LINEAR, one_thread  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from easi3r_ros.core.dust3r.generated import generated_network
from easi3r_ros.core.dust3r.network import (
    CrossMask,
    Dust3rNetwork,
    NetworkConfig,
    Scratch,
    attend_masked,
    changed_by_mask,
    mean_key_logits,
    pointmap,
    rotary_table,
)

GRID = (5, 7)
TOKENS = 35


@pytest.fixture(scope="module", params=[SMALL, SMALL_LINEAR], ids=["dpt", "linear"])
def network(request):
    return generated_network(request.param)


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, TOKENS, SMALL.encoder_width, generator=generator) for _ in range(2)]


def random_masks(pairs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(pairs, TOKENS, generator=generator) > 0.6 for _ in range(2))


def outputs(network, tokens, masks=None):
    decoded = network.decode(*tokens, GRID, masks)
    return [*network.pointmaps(decoded), decoded.source, decoded.reference]


@pytest.mark.parametrize(
    ("file", "config"),
    [("dpt512", NetworkConfig()), ("linear224", NetworkConfig(head="linear", image_size=(224, 224)))],
)
def test_names_shapes_and_order_are_the_published_ones(file, config):
    with torch.device("meta"):
        ours = [(name, list(tensor.shape)) for name, tensor in Dust3rNetwork(config).state_dict().items()]
    assert ours == list(json.loads((GOLDEN / f"keys_vitl_{file}.json").read_text())["keys"].items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_heads": 3}, "encoder width"),
        ({"decoder_width": 36}, "decoder width"),
        ({"head": "cnn"}, "'dpt' or 'linear'"),
        ({"patch_size": 8}, "DPT head needs patches"),
        ({"decoder_depth": 2}, "at least 4"),
        ({"encoder_depth": 0}, "positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_patches_of_any_size_with_a_linear_head():
    network = generated_network(replace(SMALL_LINEAR, patch_size=8))
    tokens = network.encode(torch.rand(1, 3, 40, 24))
    points, *_ = network.pointmaps(network.decode(tokens, tokens, (5, 3)))
    assert tokens.shape == (1, 15, 32)
    assert points.shape == (1, 40, 24, 3)


def test_a_linear_head_lays_pixels_out_in_their_patch():
    network = generated_network(SMALL_LINEAR)
    tokens = torch.randn(1, 6, 32)
    raw = network.downstream_head1([tokens], (2, 3))
    third_of_second_row = network.downstream_head1.proj(tokens[0, 5]).view(4, 16, 16)
    assert torch.allclose(raw[0, :, 16:, 32:], third_of_second_row, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_turns_the_halves_of_each_axis_into_each_other(dtype):
    """As published, x cos + rotate_half(x) sin per axis, and the answer keeps the memory order of what it came from."""
    rows, columns, width = 3, 5, 16
    packed = torch.randn(2, rows * columns, 3, 2, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = packed.permute(2, 0, 3, 1, 4)[:2]  # (q | k, B, heads, N, D), as self-attention has them
    frequencies = 100.0 ** -(torch.arange(0, width // 2, 2) / (width // 2))
    y_of, x_of = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    expected = []
    for half, position in zip(x.chunk(2, dim=-1), (y_of, x_of), strict=True):
        angle = torch.outer(position.float(), frequencies).repeat(1, 2)
        low, high = half.chunk(2, dim=-1)
        expected.append(half * angle.cos().to(dtype) + torch.cat((-high, low), -1) * angle.sin().to(dtype))
    given = x.clone()
    rotated = rotary_table((rows, columns), width, 100.0, dtype=dtype).rotate(x)
    tolerance = 1e-6 if dtype == torch.float32 else 2**-6  # bfloat16: what two roundings make of a value
    torch.testing.assert_close(rotated, torch.cat(expected, -1), rtol=tolerance, atol=tolerance)
    assert torch.equal(x, given) and rotated.stride(-2) > rotated.stride(-3)  # heads before tokens in memory


def test_rotary_logits_depend_on_relative_position_only():
    rotary = rotary_table((6, 8), head_dim=16, base=100.0)
    q, k = torch.randn(16), torch.randn(16)
    logits = rotary.rotate(q.expand(1, 1, 48, 16))[0, 0] @ rotary.rotate(k.expand(1, 1, 48, 16))[0, 0].T
    at = logits.view(6, 8, 6, 8)  # query y, x, key y, x
    assert torch.allclose(at[1, 2, 3, 5], at[2, 4, 4, 7], atol=1e-4)
    assert not torch.allclose(at[1, 2, 3, 5], at[1, 2, 2, 5], atol=1e-2)
    assert not torch.allclose(at[1, 2, 3, 5], at[1, 2, 3, 4], atol=1e-2)


def test_statistics_are_the_mean_of_the_logits_over_queries():
    q, k = torch.randn(2, 3, TOKENS, 8), torch.randn(2, 3, TOKENS, 8)
    logits = q @ k.mT / 8**0.5  # (B, heads, queries, keys)
    assert torch.allclose(mean_key_logits(q, k), logits.mean(dim=2).permute(0, 2, 1), atol=1e-6)


def test_masking_zeroes_weights_of_static_queries_to_dynamic_keys_without_renormalising():
    q, k, v = (torch.randn(3, 2, TOKENS, 8) for _ in range(3))
    dynamic_a, dynamic_b = random_masks()
    weights = torch.softmax(q @ k.mT / 8**0.5, dim=-1)
    weights = weights.masked_fill((~dynamic_a[:, :, None] & dynamic_b[:, None, :])[:, None], 0)
    expected = (weights @ v).transpose(1, 2).flatten(2)
    assert torch.allclose(attend_masked(q, k, v, CrossMask(dynamic_a, dynamic_b)), expected, atol=1e-6)


def test_a_mask_concerns_only_pairs_with_static_queries_and_dynamic_keys():
    none, every, some = (torch.zeros(TOKENS, dtype=torch.bool) for _ in range(3))
    every[:], some[3] = True, True
    changed = changed_by_mask(torch.stack([some, every, none, some]), torch.stack([none, some, every, some]))
    assert changed.tolist() == [False, False, True, True]
    assert not changed_by_mask(every[None], every[None]).any()


def test_without_dynamic_tokens_the_second_pass_is_the_first(network, tokens):
    first = outputs(network, tokens)
    nothing = torch.zeros(3, TOKENS, dtype=torch.bool)
    for masks in ((nothing, nothing), (random_masks()[0], nothing), (~nothing, random_masks()[1])):
        assert all(torch.equal(a, b) for a, b in zip(first, outputs(network, tokens, masks), strict=True))


def test_a_mask_changes_its_pair_and_leaves_the_others_of_the_batch_alone(network, tokens):
    a, b = random_masks()
    b[0] = b[2] = False
    for plain, masked in zip(outputs(network, tokens), outputs(network, tokens, (a, b)), strict=True):
        assert torch.equal(plain[[0, 2]], masked[[0, 2]])
        assert not torch.allclose(plain[1], masked[1], atol=1e-5)


def test_masks_never_reach_the_self_attention_or_the_second_tower(tokens):
    network = generated_network(replace(SMALL_LINEAR, decoder_depth=1))  # one layer: tower 2 has not yet read tower 1
    plain, masked = outputs(network, tokens), outputs(network, tokens, random_masks())
    assert torch.equal(plain[1], masked[1])  # points of b come from tower 2
    assert not torch.allclose(plain[0], masked[0], atol=1e-5)
    assert torch.equal(plain[4], masked[4])  # statistics are taken before masking
    assert torch.equal(plain[5], masked[5])


@pytest.mark.parametrize("masks", [None, random_masks()], ids=["first", "second"])
def test_a_batch_of_pairs_is_the_pairs_one_at_a_time(network, tokens, masks):
    together = outputs(network, tokens, masks)
    for i in range(3):
        one_masks = None if masks is None else tuple(mask[i : i + 1] for mask in masks)
        alone = outputs(network, [x[i : i + 1] for x in tokens], one_masks)
        assert all(torch.allclose(a[0], b[i], atol=1e-5) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("grid", [(7, 4), (3, 7), (2, 2), (1, 5)], ids=str)
def test_portrait_and_odd_token_counts(network, grid):
    images = torch.rand(1, 3, grid[0] * 16, grid[1] * 16)
    tokens = network.encode(images)
    points_a, points_b, conf_a, conf_b = network.pointmaps(network.decode(tokens, tokens, grid))
    assert points_a.shape == points_b.shape == (1, *images.shape[2:], 3)
    assert conf_a.shape == conf_b.shape == (1, *images.shape[2:])
    assert min(conf_a.min(), conf_b.min()) >= 1


def test_the_coarsest_dpt_map_is_cropped_at_the_bottom_and_right():
    scratch = Scratch()
    seen = []
    scratch.refinenet3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    sizes = ((20, 28), (10, 14), (5, 7), (3, 4))
    maps = [torch.randn(1, width, *size) for width, size in zip((96, 192, 384, 768), sizes, strict=True)]
    with torch.no_grad():
        scratch(maps)
        uncropped = scratch.refinenet4(scratch.layer4_rn(maps[3]), None)
    assert torch.allclose(seen[0], uncropped[..., :5, :7])


def test_pointmaps_go_exponentially_outwards():
    raw = torch.tensor([3.0, 0.0, 4.0, -1.0]).view(1, 4, 1, 1)
    points, confidence = pointmap(raw)
    expected = torch.tensor([0.6, 0.0, 0.8]) * (torch.tensor(5.0).exp() - 1)
    assert torch.allclose(points.flatten(), expected)
    assert torch.allclose(confidence, 1 + torch.tensor(-1.0).exp())
    assert torch.equal(pointmap(torch.zeros(1, 4, 1, 1))[0], torch.zeros(1, 1, 1, 3))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)], ids=str)
def test_half_precision_is_close_and_keeps_answers_in_float32(dtype, tolerance):
    network, images = generated_network(SMALL), torch.rand(2, 3, 80, 112) * 2 - 1
    tokens = network.encode(images)
    exact = outputs(network, (tokens[:1], tokens[1:]))
    network.cast(dtype)
    tokens = network.encode(images)
    assert tokens.dtype == dtype
    for ours, reference in zip(outputs(network, (tokens[:1], tokens[1:])), exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - reference).norm() < tolerance * reference.norm()


class ShapeRecorder(TorchDispatchMode):
    """Every tensor that any operation makes, including those inside composite ones."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.shapes |= {tuple(x.shape) for x in tree_leaves(result) if isinstance(x, torch.Tensor)}
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_matrix_of_tokens_by_tokens_is_ever_made(dtype):
    network = generated_network(SMALL).cast(dtype)
    with torch.no_grad(), ShapeRecorder() as recorder:
        tokens = network.encode(torch.rand(2, 3, 80, 112))
        outputs(network, (tokens, tokens), random_masks(2))
    assert (2, 2, TOKENS, 16) in recorder.shapes  # the recorder sees inside attention: B, heads, N, channels
    assert not [shape for shape in recorder.shapes if shape.count(TOKENS) > 1]


def test_gradients_reach_every_weight_that_is_used():
    network = generated_network(SMALL_LINEAR).requires_grad_(True)
    tokens = network.encode(torch.rand(1, 3, 80, 112))
    sum(x.sum() for x in outputs(network, (tokens, tokens), random_masks(1))).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == ["mask_token"]
