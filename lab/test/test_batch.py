"""The published batch pipeline: two passes, in which masks of the first steer the second."""

import pytest
import torch
from easi3r_lab.published.two_passes import (
    analyse_motion,
    complete_edges,
    decode_edges,
    run_batch,
    swin_edges,
    swin_stride_edges,
)
from helpers_dust3r import noise_images, one_thread, small_backbone  # noqa: F401


@pytest.fixture(scope="module")
def backbone():
    return small_backbone()


@pytest.fixture(scope="module")
def result(backbone):
    return run_batch(backbone, noise_images(6, 48, 80), swin_stride_edges(6, 3))


def test_every_frame_gets_a_mask_and_every_pair_an_answer(result):
    assert list(result.features) == [0, 1, 2, 3, 4, 5]
    assert [pair.edge for pair in result.geometry] == swin_stride_edges(6, 3)
    assert list(result.second.masks) == [0, 1, 2, 3, 4, 5]
    assert {tuple(mask.shape) for mask in result.second.masks.values()} == {(48, 80)}
    assert any(mask.any() for mask in result.first.masks.values())


def test_the_second_pass_uses_the_masks_of_the_first(backbone, result):
    again = decode_edges(backbone, result.features, [(1, 2)], result.first.masks)[0]
    plain = decode_edges(backbone, result.features, [(1, 2)])[0]
    ours = next(pair for pair in result.geometry if pair.edge == (1, 2))
    assert torch.allclose(ours.points_a, again.points_a, atol=1e-5)
    assert not torch.allclose(ours.points_a, plain.points_a, atol=1e-5)
    assert not torch.equal(result.first.statistics.source_mean, result.second.statistics.source_mean)


def test_masks_are_the_map_above_the_threshold(result):
    for analysis in (result.first, result.second):
        assert analysis.threshold in {candidate.thresholds[-1] for candidate in analysis.candidates}
        for i, mask in enumerate(analysis.masks.values()):
            assert torch.equal(mask, analysis.motion.upsampled[i] > analysis.threshold)


def test_the_grouping_can_be_given(backbone, result):
    calls = []

    def group(tokens):
        calls.append(len(tokens))
        return torch.arange(6 * 15).view(6, 15) % 7

    given = run_batch(backbone, [f.input for f in result.features.values()], swin_stride_edges(6, 3), group)
    assert calls == [6, 6]
    assert given.second.motion.labels.max() == 6


def test_frames_without_two_partners_stay_unmasked(backbone, result):
    edges = swin_edges(6, 1)
    analysis = analyse_motion(result.features, decode_edges(backbone, result.features, edges))
    assert list(analysis.masks) == [1, 2, 3, 4]


def test_clips_that_cannot_work_are_refused(backbone):
    with pytest.raises(ValueError, match=r"frames that were not given: \[2\]"):
        run_batch(backbone, noise_images(2, 32, 32), complete_edges(3))
    with pytest.raises(ValueError, match="no frame has two partners"):
        run_batch(backbone, noise_images(2, 32, 32), complete_edges(2))
