"""Statistics of pairs over frames and roles, and their normalisation."""

import pytest
import torch
from easi3r_lab.published.two_passes import complete_edges, swin_edges
from hypothesis import given
from hypothesis import strategies as st

from easi3r_ros.core.motion.attention import normalise_per_frame
from easi3r_ros.core.motion.statistics import (
    STATISTICS,
    WINDOW_SCOPE,
    Extremes,
    RunningStatistics,
    aggregate,
    fuse,
    fuse_summaries,
    repair_corner,
)
from easi3r_ros.core.types import PairAttention

GRID, CHANNELS = (3, 4), 5


def random_evidence(edges, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def maps():
        return torch.randn(*GRID, CHANNELS, generator=generator)

    return {edge: PairAttention(maps(), maps()) for edge in edges}


def test_the_corner_token_is_the_mean_of_its_neighbours():
    maps = torch.randn(2, *GRID, CHANNELS)
    repaired = repair_corner(maps)
    assert torch.allclose(repaired[:, 0, 0], (maps[:, 0, 1] + maps[:, 1, 0]) / 2)
    repaired[:, 0, 0] = maps[:, 0, 0]
    assert torch.equal(repaired, maps)
    with pytest.raises(ValueError, match="at least 2 x 2"):
        repair_corner(torch.randn(1, 4, CHANNELS))


def test_source_statistics_live_on_b_and_reference_statistics_on_a():
    evidence = random_evidence(complete_edges(4))
    statistics = aggregate(evidence)
    assert statistics.frames == (0, 1, 2, 3)
    sources = repair_corner(torch.stack([evidence[x, 2].source for x in (0, 1, 3)]))
    references = repair_corner(torch.stack([evidence[2, x].reference for x in (0, 1, 3)]))
    deviation = ((sources - sources.mean(0)).square().sum(0) / 2).sqrt()  # unbiased: 3 partners - 1
    assert torch.allclose(statistics.source_mean[2], sources.mean(0), atol=1e-6)
    assert torch.allclose(statistics.source_std[2], deviation, atol=1e-6)
    assert torch.allclose(statistics.reference_mean[2], references.mean(0), atol=1e-6)
    assert torch.allclose(statistics.reference_std[2], references.std(0), atol=1e-6)


def test_frames_with_a_single_partner_in_either_role_are_left_out_and_spoil_nothing():
    edges = swin_edges(4, 1)  # 0 and 3 have one partner
    statistics = aggregate(random_evidence(edges))
    assert statistics.frames == (1, 2)
    assert all(getattr(statistics, name).isfinite().all() for name in STATISTICS)
    never_reference = {edge: value for edge, value in random_evidence(complete_edges(4)).items() if edge[0] != 1}
    assert aggregate(never_reference).frames == (0, 2, 3)


def test_nothing_known_yet():
    assert aggregate({}) is None
    assert aggregate(random_evidence([(0, 1), (1, 0)])) is None


def test_only_the_frames_wanted_in_the_order_wanted():
    evidence = random_evidence(complete_edges(4))
    statistics = aggregate(evidence, frames=(3, 1))
    assert statistics.frames == (3, 1)
    assert torch.equal(statistics.source_mean[1], aggregate(evidence).source_mean[1])


def test_maps_span_zero_to_one_over_all_frames_not_per_frame():
    maps, _ = fuse(aggregate(random_evidence(complete_edges(4))), WINDOW_SCOPE)
    for name in STATISTICS:
        values = getattr(maps, name)
        assert values.shape == (4, *GRID)
        assert values.min() == 0 and values.max() == pytest.approx(1, abs=1e-4)
        assert (values.amax(dim=(1, 2)) < 0.999).sum() == 3


def test_sequence_scope_remembers_the_extremes_of_earlier_frames():
    quiet, loud = random_evidence(complete_edges(3), 1), random_evidence(complete_edges(3), 2)
    loud = {edge: PairAttention(10 * a.source, 10 * a.reference) for edge, a in loud.items()}
    alone, _ = fuse(aggregate(quiet), WINDOW_SCOPE)
    _, scope = fuse(aggregate(loud), WINDOW_SCOPE)
    after, wider = fuse(aggregate(quiet), scope)
    assert after.source_std.max() < 0.5 * alone.source_std.max()
    assert wider.source_std[0] == scope.source_std[0].merged(Extremes.of(aggregate(quiet).source_std))
    assert WINDOW_SCOPE.source_std[0] == Extremes()


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1), st.lists(st.floats(-1e3, 1e3, width=32), min_size=1))
def test_extremes_of_parts_are_those_of_the_whole(first, second):
    parts = Extremes.of(torch.tensor(first)).merged(Extremes.of(torch.tensor(second)))
    assert parts == Extremes.of(torch.tensor(first + second))


def test_constant_maps_become_zero():
    assert torch.equal(normalise_per_frame(torch.full((2, 3, 3), 7.0)), torch.zeros(2, 3, 3))
    assert torch.equal(Extremes.of(torch.full((4,), 7.0)).normalise(torch.full((4,), 7.0)), torch.zeros(4))


def test_per_frame_normalisation_stretches_each_frame():
    maps = normalise_per_frame(torch.stack([torch.arange(6.0).view(2, 3), 100 + torch.arange(6.0).view(2, 3)]))
    assert torch.allclose(maps[0], maps[1], atol=1e-5)
    assert torch.allclose(maps.amax(dim=(1, 2)), torch.ones(2), atol=1e-5)


def closeness(summary, statistics, i):
    """Largest difference of a running summary to the statistics of frame number i of an `aggregate`."""
    differences = []
    for name in STATISTICS:
        stack = getattr(statistics, name)[i]
        differences += [(summary[name].mean - stack.mean(-1)).abs().max()]
        differences += [
            (summary[name].extremes.low - stack.min()).abs(),
            (summary[name].extremes.high - stack.max()).abs(),
        ]
    return float(max(differences))


def offset_evidence(edges, seed, offset=30.0, spread=0.1):
    """Logits far from zero that differ little from pair to pair, where sums of squares have no digits left."""
    base = torch.randn(*GRID, CHANNELS, generator=torch.Generator().manual_seed(99)) + offset
    return {
        edge: PairAttention(base + spread * pair.source, base + spread * pair.reference)
        for edge, pair in random_evidence(edges, seed).items()
    }


def test_running_sums_are_the_aggregate_while_frames_come_leave_and_are_decoded_again():
    running, evidence, window = RunningStatistics(), {}, []
    for newest in range(12):
        window = [*window, newest][-5:]
        evidence = {edge: pair for edge, pair in evidence.items() if set(edge) <= set(window)}
        edges = [edge for other in window[:-1] for edge in ((newest, other), (other, newest))]
        for seed in (newest, 100 + newest):  # the second pass replaces some of the first
            evidence.update(offset_evidence(edges, seed))
            edges = edges[:-1]
            summaries, statistics = running.update(evidence, window), aggregate(evidence, window)
            assert list(summaries) == ([] if statistics is None else list(statistics.frames))
            for i, frame in enumerate(summaries):
                assert closeness(summaries[frame], statistics, i) < 1e-5
                for name, values in running.moments(frame).items():
                    assert torch.allclose(values, getattr(statistics, name)[i], rtol=0, atol=1e-5)
            if summaries:
                ours, reference = fuse_summaries(summaries, WINDOW_SCOPE)[0], fuse(statistics, WINDOW_SCOPE)[0]
                for name in STATISTICS:
                    assert torch.allclose(getattr(ours, name), getattr(reference, name), rtol=0, atol=1e-4)


def test_a_frame_that_nothing_happened_to_is_not_computed_again():
    running, evidence = RunningStatistics(), random_evidence(complete_edges(4))
    before = running.update(evidence, range(4))
    evidence |= random_evidence([(0, 1)], seed=5)
    after = running.update(evidence, range(4))
    assert [after[frame] is before[frame] for frame in range(4)] == [False, False, True, True]


def test_running_sums_forget_what_left_the_window():
    running = RunningStatistics()
    running.update(random_evidence(complete_edges(4)), range(4))
    assert list(running.update(random_evidence(complete_edges(4), 1), (1, 2, 3))) == [1, 2, 3]
    assert running.update({}, (1, 2, 3)) == {}
    assert not running._sums and not running._summaries and not running._pairs


def test_sequence_scope_of_running_sums():
    quiet, loud = random_evidence(complete_edges(3), 1), random_evidence(complete_edges(3), 2)
    _, scope = fuse_summaries(RunningStatistics().update(loud, range(3)), WINDOW_SCOPE)
    ours, _ = fuse_summaries(RunningStatistics().update(quiet, range(3)), scope)
    reference, _ = fuse(aggregate(quiet), fuse(aggregate(loud), WINDOW_SCOPE)[1])
    assert all(torch.allclose(getattr(ours, name), getattr(reference, name), atol=1e-5) for name in STATISTICS)
