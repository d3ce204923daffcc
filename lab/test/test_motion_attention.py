"""The attention cue: equation 9, clusters, masks, and its modes and scopes."""

import pytest
import torch
from easi3r_lab.published.two_passes import complete_edges, swin_edges
from helpers_dust3r import noise_images, one_thread  # noqa: F401

from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.motion.attention import (
    AttentionCue,
    AttentionMotion,
    RunningThreshold,
    attention_motion,
    attention_of,
    dynamic_map,
    estimates,
)
from easi3r_ros.core.motion.clustering import Histogram, best_threshold, cluster_tokens, partitions
from easi3r_ros.core.motion.statistics import WINDOW_SCOPE, AttentionMaps, aggregate, fuse
from easi3r_ros.core.types import Features, PairAttention, PairEvidence

GRID, HEIGHT, WIDTH = (6, 8), 96, 128


def scene(frames=4, edges=None, seed=0, contrast=6.0):
    """Features and evidence in which the tokens of one square behave as the paper says that moving things do:
    little attention to them as source, varying from pair to pair; steady attention to them as reference.
    """
    generator = torch.Generator().manual_seed(seed)
    moving = torch.zeros(*GRID, 1)
    moving[2:4, 3:6] = 1
    features, evidence = {}, {}
    for image in noise_images(frames, HEIGHT, WIDTH):
        tokens = 20 * moving + torch.randn(*GRID, 3, generator=generator)
        features[image.frame.index] = Features(image, tokens.flatten(0, 1), GRID)
    for edge in edges or complete_edges(frames):
        noise = 0.1 * torch.randn(2, *GRID, 4, generator=generator)
        varying = torch.randn((), generator=generator)
        source = noise[0] - contrast * moving + contrast / 4 * varying * moving
        evidence[edge] = PairEvidence(PairAttention(source, noise[1] * (1 - 0.5 * moving) + contrast * moving))
    return features, evidence, moving[..., 0].bool()


def config(**settings):
    return MotionConfig(**{"clusters": 8, "mode": "paper", **settings})


@pytest.mark.parametrize("mode", ["paper", "stream"])
@pytest.mark.parametrize("scope", ["window", "sequence"])
def test_what_moves_is_masked(mode, scope):
    features, evidence, moving = scene()
    answer = AttentionCue(config(mode=mode, scope=scope)).estimate(features, evidence)
    assert list(answer) == [0, 1, 2, 3]
    truth = moving.repeat_interleave(16, 0).repeat_interleave(16, 1)
    for index, motion in answer.items():
        assert motion.index == index
        assert motion.mask.shape == motion.probability.shape == (HEIGHT, WIDTH)
        overlap = (motion.mask & truth).sum() / (motion.mask | truth).sum()
        assert overlap > 0.7
        assert torch.equal(motion.mask, motion.probability > 0.5)
        assert motion.probability.min() >= 0 and motion.probability.max() <= 1
        assert motion.evidence["attention"].shape == GRID


def test_equation_9():
    ones = torch.ones(1, 1, 2)
    values = torch.tensor([[[0.2, 0.5]]])
    maps = AttentionMaps((0,), source_mean=values, source_std=ones, reference_mean=ones, reference_std=0 * ones)
    assert dynamic_map(maps).flatten().tolist() == pytest.approx([1, 0], abs=1e-4)  # lower source mean: more dynamic
    maps = AttentionMaps((0,), source_mean=0 * ones, source_std=ones, reference_mean=ones, reference_std=values)
    assert dynamic_map(maps).flatten().tolist() == pytest.approx([1, 0], abs=1e-4)
    for name in ("source_std", "reference_mean"):
        parts = {"source_mean": 0 * ones, "source_std": ones, "reference_mean": ones, "reference_std": 0 * ones}
        assert dynamic_map(AttentionMaps((0,), **{**parts, name: values})).flatten().tolist() == pytest.approx(
            [0, 1], abs=1e-4
        )


def test_paper_mode_is_the_batch_computation():
    features, evidence, _ = scene()
    maps, _ = fuse(aggregate(attention_of(evidence)), WINDOW_SCOPE)
    motion = attention_motion(maps, features, lambda tokens: cluster_tokens(tokens, 8))
    batch = estimates(motion, best_threshold(partitions(motion.upsampled.numpy())))
    cue = AttentionCue(config())
    cue.estimate(*scene(seed=5)[:2])  # an earlier window leaves no trace
    answer = cue.estimate(features, evidence)
    assert all(torch.equal(answer[i].mask, batch[i].mask) for i in range(4))
    assert all(torch.equal(answer[i].probability, batch[i].probability) for i in range(4))


def test_injected_labels_replace_the_clustering():
    features, evidence, _ = scene()
    maps, _ = fuse(aggregate(attention_of(evidence)), WINDOW_SCOPE)
    motion = attention_motion(maps, features, lambda tokens: torch.zeros(4, 48, dtype=torch.long))
    assert motion.refined.abs().max() == 0  # one cluster: nothing stands out
    assert motion.labels.shape == motion.refined.shape == (4, *GRID)


def test_frames_without_two_partners_are_absent():
    features, evidence, _ = scene(edges=swin_edges(4, 1))
    assert list(AttentionCue(config()).estimate(features, evidence)) == [1, 2]
    assert AttentionCue(config()).estimate(features, {}) == {}
    assert AttentionCue(config()).estimate(features, {edge: evidence[edge] for edge in ((0, 1), (1, 0))}) == {}


def test_a_scene_in_which_all_pairs_agree_has_an_empty_mask():
    features, evidence, _ = scene()
    same = {edge: PairEvidence(PairAttention(torch.ones(*GRID, 4), torch.ones(*GRID, 4))) for edge in evidence}
    answer = AttentionCue(config()).estimate(features, same)
    assert not any(motion.mask.any() or motion.probability.any() for motion in answer.values())


def test_evidence_of_another_backbone_is_refused():
    with pytest.raises(ValueError, match=r"pair \(0, 1\) carries no attention"):
        AttentionCue(config()).estimate({}, {(0, 1): PairEvidence()})


def test_sequence_scope_judges_by_what_came_before():
    """After a loud window, a quiet one must not be stretched to full scale again."""
    loud, quiet = scene(contrast=20), scene(seed=3, contrast=1)
    window, sequence = AttentionCue(config()), AttentionCue(config(scope="sequence"))
    for cue in (window, sequence):
        cue.estimate(*loud[:2])
    stretched = window.estimate(*quiet[:2])[0].evidence["attention/source_std"]
    judged = sequence.estimate(*quiet[:2])[0].evidence["attention/source_std"]
    assert judged.max() < 0.5 * stretched.max()
    sequence.reset()
    assert torch.allclose(sequence.estimate(*quiet[:2])[0].evidence["attention/source_std"], stretched)


def test_live_settings_leave_clusters_and_statistics_alone():
    loud, quiet = scene(contrast=20), scene(seed=3, contrast=1)
    undisturbed, changed = (AttentionCue(config(mode="stream", scope="sequence")) for _ in range(2))
    for cue in (undisturbed, changed):
        cue.estimate(*loud[:2])
    changed.reconfigure(config(mode="stream", scope="sequence", threshold=0.9, memory=0.1, passes=1))
    expected, answer = (cue.estimate(*quiet[:2]) for cue in (undisturbed, changed))
    assert all(torch.equal(answer[i].probability, expected[i].probability) for i in expected)


def test_each_frame_counts_once_in_the_running_threshold_with_its_last_map():
    generator = torch.Generator().manual_seed(0)
    running, last = RunningThreshold(), {}
    for frames in ((0, 1, 2), (0, 1, 2, 3), (2, 3, 4), (3, 4, 5)):
        upsampled = torch.rand(len(frames), 8, 8, generator=generator) ** 3
        maps = AttentionMaps(frames, *[upsampled] * 4)
        threshold = running.update(AttentionMotion(maps, upsampled, upsampled, upsampled, (8, 8)))
        last |= dict(zip(frames, upsampled[:, ::2, ::2], strict=True))
        expected = Histogram.of_unit(torch.stack(list(last.values())))
        assert threshold == expected.best_threshold()
