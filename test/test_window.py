"""The sliding window: which pairs a frame makes, and that what left is gone."""

import numpy as np
import torch

from easi3r_ros.core.types import Features, Frame, ImageTransform, NetworkInput, PairEvidence, PairGeometry, Partners
from easi3r_ros.core.window import FrameWindow


def features(index):
    frame = Frame(index, index * 100_000_000, "camera", np.zeros((4, 4, 3), np.uint8))
    return Features(
        NetworkInput(frame, frame.image, None, ImageTransform((4, 4), (4, 4), (0, 0), (4, 4))),
        torch.zeros(1, 1),
        (1, 1),
    )


def pair(a, b, evidence=None):
    empty = torch.empty(0)
    return PairGeometry(a, b, empty, empty, empty, empty, evidence or PairEvidence())


def edges(window, steps=(), seconds=()):
    return [(a.index, b.index) for a, b in window.new_pairs(Partners(steps, seconds))]


def test_pairs_both_ways_and_clamped_at_the_start():
    window = FrameWindow(8)
    window.add(features(0))
    assert edges(window, (1, 3)) == []
    window.add(features(1))
    assert edges(window, (1, 3)) == [(1, 0), (0, 1)]
    window.add(features(2))
    assert edges(window, (1, 3)) == [(2, 1), (1, 2), (2, 0), (0, 2)]


def test_offsets_count_frames_seen_not_numbers():
    """Frames dropped upstream leave gaps in the numbering, not in the window."""
    window = FrameWindow(8)
    for index in (0, 5, 9, 30):
        window.add(features(index))
    assert edges(window, (1, 2)) == [(30, 9), (9, 30), (30, 5), (5, 30)]


def test_lost_frames_are_no_partners_while_there_are_others():
    window = FrameWindow(4)
    for index in range(4):
        window.add(features(index))
    window.mark_lost(2)
    assert edges(window, (1,)) == [(3, 1), (1, 3)]
    for index in (0, 1):
        window.mark_lost(index)
    assert edges(window, (1, 2)) == [(3, 2), (2, 3), (3, 1), (1, 3)]


def test_evidence_leaves_with_its_frames_and_later_passes_replace():
    window = FrameWindow(2)
    for index in range(2):
        window.add(features(index))
    second = PairEvidence()
    window.record([pair(1, 0), pair(0, 1)])
    window.record([pair(0, 1, second)])
    assert window.evidence[0, 1] is second
    window.add(features(2))
    assert window.indices == (1, 2) and not window.evidence
    window.clear()
    assert window.indices == ()


def test_partners_by_age_follow_the_clock():
    """At 10 Hz a partner 0.25 s ago is two or three frames back; after drops it is the last one but one."""
    window = FrameWindow(8)
    for index in range(8):
        window.add(features(index))
    assert edges(window, seconds=(0.0, 0.29)) == [(7, 6), (6, 7), (7, 4), (4, 7)]
    sparse = FrameWindow(8)
    for index in (0, 4, 8):
        sparse.add(features(index))
    assert edges(sparse, seconds=(0.0, 0.29)) == [(8, 4), (4, 8), (8, 0), (0, 8)]
