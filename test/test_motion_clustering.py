"""k-means over tokens of all frames."""

import warnings

import numpy as np
import pytest
import sklearn
import torch
from helpers_dust3r import GOLDEN, one_thread  # noqa: F401

from easi3r_ros.core.motion.clustering import TokenClusters, cluster_tokens, spread_cluster_means


def grouped_tokens(frames, groups=8, per_frame=60, seed=0):
    """Tokens around well separated centres, and the group of each."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 10, (groups, 16))
    truth = rng.integers(0, groups, (frames, per_frame))
    tokens = centres[truth] + rng.normal(0, 0.1, (frames, per_frame, 16))
    return list(torch.from_numpy(tokens).float()), torch.from_numpy(truth)


def same_partition(a, b):
    pairs = set(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    return len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})


@pytest.mark.parametrize("prefix", ["p1_", "p2_"])
def test_published_labels(prefix):
    with np.load(GOLDEN / "golden_window.npz") as golden:
        if str(golden["sklearn_version"]) != sklearn.__version__:
            pytest.skip("labels were recorded with another scikit-learn")
        tokens = list(torch.from_numpy(golden[prefix + "feat"]).flatten(1, 2))
        assert np.array_equal(cluster_tokens(tokens, 64).numpy(), golden[prefix + "kmeans_labels"].reshape(7, -1))


def test_groups_are_found_across_frames():
    tokens, truth = grouped_tokens(frames=4)
    labels = cluster_tokens(tokens, 8)
    assert labels.shape == (4, 60) and labels.dtype == torch.int64
    assert same_partition(labels, truth)


@pytest.mark.parametrize("cluster", [cluster_tokens, lambda tokens, k: TokenClusters(k).assign(tokens)])
def test_fewer_tokens_than_clusters_and_duplicates(cluster):
    few = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    assert len(cluster(few, 64).unique()) == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blank = cluster([torch.ones(50, 4), torch.ones(50, 4)], 64)
    assert len(blank.unique()) == 1


def test_half_precision_tokens():
    tokens, truth = grouped_tokens(frames=2)
    assert same_partition(cluster_tokens([x.bfloat16() for x in tokens], 8), truth)


def test_a_stream_keeps_the_meaning_of_labels():
    clusters = TokenClusters(8)
    tokens, truth = grouped_tokens(frames=6)
    first = clusters.assign(tokens[:4])
    second = clusters.assign(tokens[2:])
    assert torch.equal(first[2:], second[:2])
    assert same_partition(second, truth[2:])


def test_a_stream_that_starts_with_few_tokens_gets_all_clusters_later():
    clusters = TokenClusters(8)
    tokens, truth = grouped_tokens(frames=2)
    clusters.assign([tokens[0][:3]])
    assert same_partition(clusters.assign(tokens), truth)


def test_reset_forgets_the_centres():
    tokens, _ = grouped_tokens(frames=2)
    clusters = TokenClusters(8)
    clusters.assign([x * 1000 for x in tokens])
    clusters.reset()
    assert torch.equal(clusters.assign(tokens), cluster_tokens(tokens, 8))


def test_tokens_get_the_mean_of_their_cluster():
    values = torch.tensor([[1.0, 2.0], [3.0, 10.0]])
    labels = torch.tensor([[0, 5], [0, 5]])  # 1-4: empty clusters
    assert torch.equal(spread_cluster_means(values, labels), torch.tensor([[2.0, 6.0], [2.0, 6.0]]))
