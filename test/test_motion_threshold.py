"""Multi-Otsu with the published choice between 2, 3 and 4 classes."""

import numpy as np
import pytest
import torch
from helpers_dust3r import GOLDEN
from skimage.filters import threshold_multiotsu, threshold_otsu

from easi3r_ros.core.motion.clustering import CLASS_COUNTS, Histogram, Partition, best_threshold, partitions


def blobs(*centres, spread=0.02, per_blob=2000, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(c, spread, per_blob) for c in centres]).clip(0, 1).astype(np.float32)


def test_thresholds_are_those_of_scikit_image_on_the_values():
    values = blobs(0.1, 0.4, 0.9)
    for classes, partition in zip(CLASS_COUNTS, partitions(values), strict=True):
        assert np.array_equal(partition.thresholds, threshold_multiotsu(values, classes))
    assert partitions(values)[0].thresholds[0] == pytest.approx(threshold_otsu(values), abs=1e-2)


def test_score_is_the_variance_of_the_class_means_over_the_root_of_the_classes():
    values = blobs(0.1, 0.9)
    two = partitions(values)[0]
    low, high = values[values < two.thresholds[0]], values[values >= two.thresholds[0]]
    assert two.score == pytest.approx(np.var([low.mean(), high.mean()]) / 2**0.5, rel=1e-5)


def test_the_highest_threshold_of_the_best_partition_wins():
    assert 0.1 < best_threshold(partitions(blobs(0.1, 0.9))) < 0.9
    candidates = [Partition(np.array([0.3]), 0.1), Partition(np.array([0.2, 0.6]), 0.3), Partition(np.arange(3), 0.2)]
    assert best_threshold(candidates) == 0.6


def test_a_constant_map_moves_nowhere():
    threshold = best_threshold(partitions(np.full((2, 8, 8), 0.3, np.float32)))
    assert threshold == float("inf")


@pytest.mark.parametrize("distinct", [2, 3])
def test_few_distinct_values_give_few_classes(distinct):
    values = np.repeat(np.linspace(0, 1, distinct, dtype=np.float32), 50)
    found = partitions(values)
    assert len(found) == distinct - 1
    assert values.min() < best_threshold(found) < values.max()


def histograms(*values):
    return [Histogram.of(torch.from_numpy(x)) for x in values]


@pytest.mark.parametrize("prefix", ["p1_", "p2_"])
def test_the_histogram_finds_the_recorded_thresholds(prefix):
    with np.load(GOLDEN / "golden_window.npz") as golden:
        found = Histogram.of(torch.from_numpy(golden[prefix + "upsampled_map"])).partitions()
        thresholds, scores = golden[prefix + "otsu_thresholds_2_3_4"], golden[prefix + "otsu_scores_2_3_4"]
        threshold = golden[prefix + "threshold"]
        best = Histogram.of(torch.from_numpy(golden[prefix + "upsampled_map"])).best_threshold()
    for partition, row, score in zip(found, thresholds, scores, strict=True):
        assert np.allclose(partition.thresholds, row[: len(partition.thresholds)], atol=1e-5)
        assert partition.score == pytest.approx(score, rel=5e-3)
    assert best.shape == () and float(best) == pytest.approx(float(threshold), abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_the_histogram_finds_what_scikit_image_finds(seed):
    """Random maps of a few levels, smoothed as scores of tokens are: plateaus, empty bins and all."""
    rng = np.random.default_rng(seed)
    levels = torch.from_numpy(rng.choice(rng.random(12), (1, 3, 9, 16)).astype(np.float32) ** (1 + seed % 3))
    values = torch.nn.functional.interpolate(levels, scale_factor=16, mode="bilinear").numpy()
    reference, (ours,) = partitions(values), histograms(values)
    width = float(values.max() - values.min()) / 256
    for theirs, mine in zip(reference, ours.partitions(), strict=True):
        assert np.abs(theirs.thresholds - mine.thresholds).max() < 1.01 * width  # scikit-image searches in float32
        assert mine.score == pytest.approx(theirs.score, rel=2e-2)
    chosen = [float(mine.thresholds[-1]) for mine in ours.partitions()].index(float(ours.best_threshold()))
    assert reference[chosen].score > 0.99 * max(partition.score for partition in reference)


def test_a_constant_map_has_an_empty_histogram():
    (histogram,) = histograms(np.full((2, 8, 8), 0.3, np.float32))
    assert histogram.partitions() == [] and histogram.best_threshold() == float("inf")


@pytest.mark.parametrize("distinct", [2, 3])
def test_few_distinct_values_in_a_histogram_give_few_classes(distinct):
    values = np.repeat(np.linspace(0, 1, distinct, dtype=np.float32), 50)
    (histogram,) = histograms(values)
    theirs = partitions(values)
    assert len(histogram.partitions()) == distinct - 1
    for mine, reference in zip(histogram.partitions(), theirs, strict=True):
        # Between two values every threshold is as good; scikit-image takes any, by its rounding.
        assert np.array_equal(np.digitize(values, mine.thresholds), np.digitize(values, reference.thresholds))
    assert np.array_equal(values > float(histogram.best_threshold()), values > best_threshold(theirs))


def test_histograms_of_parts_threshold_like_the_whole():
    first, second = blobs(0.1, 0.9, seed=1), blobs(0.1, 0.5, seed=2)
    parts = Histogram.of_unit(torch.from_numpy(first)) + Histogram.of_unit(torch.from_numpy(second))
    whole = best_threshold(partitions(np.concatenate([first, second])))
    assert float(parts.best_threshold()) == pytest.approx(whole, abs=0.02)
    assert parts.counts.sum() == len(first) + len(second)


def test_an_empty_part_changes_nothing():
    histogram = Histogram.of_unit(torch.from_numpy(blobs(0.2, 0.7)))
    empty = Histogram.of_unit(torch.zeros(0))
    assert (histogram + empty).best_threshold() == histogram.best_threshold()
