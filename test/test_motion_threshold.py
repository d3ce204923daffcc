"""Multi-Otsu with the published choice between 2, 3 and 4 classes."""

import numpy as np
import pytest
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


def test_histograms_of_parts_threshold_like_the_whole():
    first, second = blobs(0.1, 0.9, seed=1), blobs(0.1, 0.5, seed=2)
    parts = Histogram.of_unit(first) + Histogram.of_unit(second)
    whole = best_threshold(partitions(np.concatenate([first, second])))
    assert best_threshold(parts.partitions()) == pytest.approx(whole, abs=0.02)
    assert parts.counts.sum() == len(first) + len(second)


def test_an_empty_part_changes_nothing():
    histogram = Histogram.of_unit(blobs(0.2, 0.7))
    empty = Histogram.of_unit(np.zeros(0))
    assert best_threshold((histogram + empty).partitions()) == best_threshold(histogram.partitions())
