"""Pair graphs of a clip."""

import numpy as np
import pytest
from easi3r_lab.published.two_passes import complete_edges, named_edges, swin_edges, swin_stride_edges
from helpers_dust3r import GOLDEN


def test_the_published_graph_in_the_published_order():
    with np.load(GOLDEN / "golden_window.npz") as golden:
        assert named_edges(str(golden["scene_graph"]), 7) == [tuple(edge) for edge in golden["edges"].tolist()]


def test_offsets():
    assert {b - a for a, b in swin_stride_edges(20, 5)} == {s * o for s in (1, -1) for o in (1, 3, 5, 7, 9)}
    assert {b - a for a, b in swin_edges(20, 3)} == {s * o for s in (1, -1) for o in (1, 2, 3)}
    edges = swin_stride_edges(20, 5)
    assert len(edges) == len(set(edges)) == 150
    assert sum(10 in edge for edge in edges) == 20  # an interior frame is in 20 ordered pairs (METHOD 6)


@pytest.mark.parametrize("edges", [swin_edges(6, 2), swin_stride_edges(7, 3, cyclic=True), complete_edges(4)], ids=str)
def test_the_second_half_is_the_first_reversed(edges):
    half = len(edges) // 2
    assert edges[half:] == [(b, a) for a, b in edges[:half]]
    assert all(a < b for a, b in edges[:half])


def test_cyclic_graphs_close_the_ring():
    assert (0, 5) in swin_edges(6, 1, cyclic=True)
    assert (0, 5) not in swin_edges(6, 1)
    assert len(set(swin_edges(3, 5, cyclic=True))) == len(swin_edges(3, 5, cyclic=True)) == 6


def test_names():
    assert named_edges("complete", 4) == complete_edges(4)
    assert len(complete_edges(4)) == 12
    assert named_edges("swin-2-noncyclic", 6) == swin_edges(6, 2)
    assert named_edges("swinstride-3", 9) == swin_stride_edges(9, 3, cyclic=True)
    with pytest.raises(ValueError, match="unknown pair graph 'star'"):
        named_edges("star", 3)


def test_too_few_frames_make_no_pairs():
    assert swin_edges(1, 3) == swin_edges(0, 3) == complete_edges(1) == []
