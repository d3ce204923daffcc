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
    assert torch.equal(clusters.assign(tokens), TokenClusters(8).assign(tokens))


def test_the_same_tokens_again_are_not_clustered_again():
    clusters = TokenClusters(8)
    tokens, _ = grouped_tokens(frames=3)
    first = clusters.assign(tokens)
    centres = clusters._centres
    assert clusters.assign(list(tokens)) is first and clusters._centres is centres
    clusters.assign([*tokens[1:], tokens[0]])
    assert clusters._centres is not centres


def inertia(tokens, labels):
    stacked, flat = torch.cat(list(tokens)).double(), labels.flatten()
    sums = torch.zeros(int(flat.max()) + 1, stacked.shape[1], dtype=torch.float64).index_add_(0, flat, stacked)
    means = sums / torch.bincount(flat).clamp(min=1)[:, None]
    return float((stacked - means[flat]).square().sum())


@pytest.mark.parametrize("prefix", ["p1_", "p2_"])
def test_groups_are_as_tight_as_those_of_scikit_learn(prefix):
    with np.load(GOLDEN / "golden_window.npz") as golden:
        tokens = list(torch.from_numpy(golden[prefix + "feat"]).flatten(1, 2))
    assert inertia(tokens, TokenClusters(64).assign(tokens)) < 1.05 * inertia(tokens, cluster_tokens(tokens, 64))


def test_a_stream_follows_tokens_that_drift():
    tokens, truth = grouped_tokens(frames=12)
    clusters = TokenClusters(8)
    for start in range(9):  # in the end every group is far from where it was
        drifted = [x + 0.5 * (start + i) * torch.linspace(-1, 1, 16) for i, x in enumerate(tokens[start : start + 4])]
        assert same_partition(clusters.assign(drifted), truth[start : start + 4])


def test_a_group_that_appears_gets_a_cluster_that_lost_its_own():
    tokens, truth = grouped_tokens(frames=1, groups=7)
    gone, there = tokens[0][truth[0] != 3], tokens[0][truth[0] == 3]
    clusters = TokenClusters(7)
    clusters.assign([torch.cat([gone, 1e3 + torch.zeros(5, 16)])])
    labels = clusters.assign([torch.cat([gone, there])])[0]
    assert not set(labels[len(gone) :].tolist()) & set(labels[: len(gone)].tolist())
    assert len(labels[len(gone) :].unique()) == 1


def test_a_stream_never_asks_the_host():
    tokens = [torch.empty(40, 16, device="meta") for _ in range(3)]
    clusters = TokenClusters(8)
    for start in (0, 1):
        assert clusters.assign(tokens[start:]).device.type == "meta"
    values = torch.empty(3, 40, device="meta")
    assert spread_cluster_means(values, clusters.assign(tokens), 8).device.type == "meta"


def test_tokens_get_the_mean_of_their_cluster():
    values = torch.tensor([[1.0, 2.0], [3.0, 10.0]])
    labels = torch.tensor([[0, 5], [0, 5]])  # 1-4: empty clusters
    assert torch.equal(spread_cluster_means(values, labels), torch.tensor([[2.0, 6.0], [2.0, 6.0]]))
