"""The published batch pipeline, step by step: pairs of a graph, masks from them, and what the masks change."""

import pytest
import torch
from easi3r_lab.published.two_passes import (
    analyse_motion,
    complete_edges,
    decode_edges,
    swin_edges,
    swin_stride_edges,
)
from helpers_dust3r import noise_images, one_thread, small_backbone  # noqa: F401

EDGES = swin_stride_edges(6, 3)


@pytest.fixture(scope="module")
def backbone():
    return small_backbone()


@pytest.fixture(scope="module")
def features(backbone):
    return {image.frame.index: backbone.encode(image) for image in noise_images(6, 48, 80)}


@pytest.fixture(scope="module")
def pairs(backbone, features):
    return decode_edges(backbone, features, EDGES)


@pytest.fixture(scope="module")
def first(features, pairs):
    return analyse_motion(features, pairs)


def test_every_frame_gets_a_mask_and_every_pair_an_answer(pairs, first):
    assert [pair.edge for pair in pairs] == EDGES
    assert list(first.masks) == [0, 1, 2, 3, 4, 5]
    assert {tuple(mask.shape) for mask in first.masks.values()} == {(48, 80)}
    assert any(mask.any() for mask in first.masks.values())


def test_masks_change_the_second_pass(backbone, features, pairs, first):
    again = decode_edges(backbone, features, EDGES, first.masks)
    row = EDGES.index((1, 2))
    assert not torch.allclose(again[row].points_a, pairs[row].points_a, atol=1e-5)
    second = analyse_motion(features, again)
    assert not torch.equal(first.statistics.source_mean, second.statistics.source_mean)


def test_masks_are_the_map_above_the_threshold(first):
    assert first.threshold in {candidate.thresholds[-1] for candidate in first.candidates}
    for i, mask in enumerate(first.masks.values()):
        assert torch.equal(mask, first.motion.upsampled[i] > first.threshold)


def test_the_grouping_can_be_given(features, pairs):
    calls = []

    def group(tokens):
        calls.append(len(tokens))
        return torch.arange(6 * 15).view(6, 15) % 7

    given = analyse_motion(features, pairs, group)
    assert calls == [6]
    assert given.motion.labels.max() == 6


def test_frames_without_two_partners_stay_unmasked(backbone, features):
    analysis = analyse_motion(features, decode_edges(backbone, features, swin_edges(6, 1)))
    assert list(analysis.masks) == [1, 2, 3, 4]


def test_clips_that_cannot_work_are_refused(backbone, features):
    with pytest.raises(ValueError, match=r"frames that were not given: \[6\]"):
        decode_edges(backbone, features, complete_edges(7))
    two = {index: features[index] for index in (0, 1)}
    with pytest.raises(ValueError, match="no frame has two partners"):
        analyse_motion(two, decode_edges(backbone, two, complete_edges(2)))
