"""A whole stream aligned at once, on simulated pairs whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from easi3r_lab.eval.scores import score_trajectory
from easi3r_lab.synthetic.correspondence import points_in_view
from easi3r_lab.synthetic.presets import build_scene
from easi3r_lab.synthetic.true_pairs import PairNoise, iter_truths, pair_of_truths
from helpers_io import make_result

from easi3r_ros.core.alignment.incremental import IncrementalAligner
from easi3r_ros.core.alignment.whole import POINTS, GlobalAlignmentError, PairJournal, align_globally, grid, sighting
from easi3r_ros.core.config import AlignmentConfig
from easi3r_ros.core.geometry import project
from easi3r_ros.core.types import TrackingState

SIZE, RATE, FRAMES = (96, 72), 10.0, 24


@pytest.fixture(scope="module")
def truths():
    return list(iter_truths(build_scene("walkers", 3, FRAMES / RATE), FRAMES, SIZE, RATE))


@pytest.fixture(scope="module")
def poses(truths):
    return np.stack([truth.view.world_from_cam for truth in truths])


def stream(truths, *, lost=(), masks=True, known_focal=True, noise=0.02):
    """The journal of a stream, and its incremental results. lost: frames of whose pairs only noise is left."""
    rng, journal = np.random.default_rng(0), PairJournal()
    aligner, results = IncrementalAligner(AlignmentConfig(), memory=8), []
    for truth in truths:
        others = {max(truth.index - step, 0) for step in (1, 3)} - {truth.index}
        pairs = [
            pair_of_truths(truths[a], truths[b], rng, PairNoise(relative=noise))
            for k in sorted(others)
            for a, b in ((truth.index, k), (k, truth.index))
        ]
        pairs = [garbage(pair, rng) if {pair.a, pair.b} & set(lost) else pair for pair in pairs]
        moving = {i: torch.from_numpy(truths[i].mask) for i in range(truth.index + 1)} if masks else {}
        K = truth.view.K if known_focal else None
        results.append(aligner.update(truth.index, pairs, moving, K, truth.depth.shape))
        journal.add(pairs, moving, results[-1], focal_known=known_focal)
    return journal, results


def garbage(pair, rng):
    points = [torch.from_numpy(rng.normal(size=pair.points_a.shape).astype(np.float32)) for _ in range(2)]
    return replace(pair, points_a=points[0], points_b=points[1])


def test_whole_is_better_than_frame_by_frame(truths, poses):
    journal, results = stream(truths)
    before = score_trajectory(np.stack([result.world_from_cam for result in results]), poses)
    found = align_globally(journal)
    after = score_trajectory(np.stack([found.frames[i].world_from_cam for i in range(FRAMES)]), poses)
    assert after.ate <= 1.02 * before.ate
    assert after.rpe_rotation < 0.5 * before.rpe_rotation
    assert after.rpe_translation < 0.9 * before.rpe_translation
    assert found.error < 0.5 * found.error_before
    assert 0.98 < np.median([frame.depth_factor for frame in found.frames.values()]) < 1.02
    for frame in found.frames.values():
        assert frame.focal_factor == 1.0
        assert np.allclose(frame.covariance, frame.covariance.T)


def test_masks_keep_movers_out(truths, poses):
    journal, _ = stream(truths)
    with_masks = align_globally(journal)
    for entry in journal.entries.values():
        entry.static = torch.ones_like(entry.static)
    without = align_globally(journal)
    errors = [
        score_trajectory(np.stack([found.frames[i].world_from_cam for i in range(FRAMES)]), poses).ate
        for found in (with_masks, without)
    ]
    assert errors[0] < 0.9 * errors[1]


def test_the_newest_mask_of_a_frame_counts(truths):
    journal, results = stream(truths[:4], masks=False)
    assert bool((journal.entries[2].static == 1).all())
    everything = torch.ones(results[0].depth.shape, dtype=torch.bool)
    journal.add([], {2: everything}, replace(results[3], index=4), focal_known=True)
    assert bool((journal.entries[2].static == 0).all()) and bool((journal.entries[1].static == 1).all())


def test_one_focal_length_is_found_if_nobody_knows_it(truths):
    journal, results = stream(truths)
    true = results[0].K[0, 0]
    for entry in journal.entries.values():
        entry.K, entry.focal_known = entry.K * np.array([[1.06, 1, 1], [1, 1.06, 1], [1, 1, 1]]), False
    found = align_globally(journal)
    assert found.focal == pytest.approx(true, rel=0.01)
    assert found.frames[5].focal_factor == pytest.approx(found.focal / (1.06 * true))


def test_a_wrong_principal_point_is_not_taken_for_a_focal_length(truths):
    journal, results = stream(truths, known_focal=False)  # assumes it half a pixel off, and finds the focal length
    assert align_globally(journal).focal == pytest.approx(results[-1].K[0, 0], rel=0.005)


def test_lost_frames_hold_the_refined_pose_and_disturb_nobody(truths, poses):
    journal, results = stream(truths, lost={9, 15})
    assert [i for i, result in enumerate(results) if result.state is TrackingState.LOST] == [9, 15]
    journal.entries[20].state = TrackingState.LOST  # for another reason than its pairs, which are fine
    found = align_globally(journal)
    assert np.array_equal(found.frames[20].world_from_cam, found.frames[19].world_from_cam)
    assert np.array_equal(found.frames[9].world_from_cam, found.frames[8].world_from_cam)
    assert found.frames[9].depth_factor == 1.0 and found.frames[9].covariance[0, 0] > 1e3
    kept = [i for i in range(FRAMES) if i not in (9, 15, 20)]
    assert (
        score_trajectory(np.stack([found.frames[i].world_from_cam for i in kept]), poses[kept]).ate_percent_of_path
        < 0.5
    )


def test_the_first_frame_gets_the_pose_that_it_could_not_have_yet(truths):
    journal, results = stream(truths[:8])
    found = align_globally(journal).frames
    assert [frame.found for frame in found.values()] == [True] + [False] * 7
    first = found[0].applied(replace(make_result(0), state=results[0].state, reason=results[0].reason))
    assert first.state is TrackingState.TRACKING and first.reason == ""
    assert np.diag(first.covariance).min() > 0 and np.diag(first.covariance).max() < 1
    journal.entries[20] = replace(journal.entries[0], sightings=[])  # before the world too, but sees nothing of it
    alone = align_globally(journal).frames[20]
    assert not alone.found and np.diag(alone.covariance).min() > 1e3


def test_a_result_changes_in_pose_depth_and_focal_length_alone(truths):
    journal, _ = stream(truths[:6])
    refined = replace(align_globally(journal).frames[4], depth_factor=1.5, focal_factor=1.1)
    result = make_result(4)
    new = refined.applied(result)
    assert np.array_equal(new.world_from_cam, refined.world_from_cam)
    assert np.array_equal(new.covariance, refined.covariance)
    assert np.allclose(new.depth, 1.5 * result.depth, equal_nan=True) and new.depth.dtype == np.float32
    assert np.allclose(new.K[:2, :2], 1.1 * result.K[:2, :2]) and np.array_equal(new.K[:, 2], result.K[:, 2])
    assert new.mask is result.mask and new.confidence is result.confidence and result.K[0, 0] == 70.0


@pytest.mark.parametrize("aspect", [1.0, 1.2])
def test_a_sighting_is_where_the_point_is_seen(truths, aspect):
    a, b = truths[3], truths[0]
    K = np.diag([1.0, aspect, 1.0]) @ a.view.K
    pair = pair_of_truths(a, b, np.random.default_rng(0), PairNoise(relative=0.05))
    narrow = torch.tensor([1.0, 1.0 / aspect, 1.0])  # with K's aspect ratio the pixels are the same
    K[1, 2] = a.view.K[1, 2]
    pair = replace(pair, points_a=pair.points_a * narrow, points_b=pair.points_b * narrow)
    expected = project(torch.from_numpy(points_in_view(b.view, a.view, b.depth, b.parts)), torch.from_numpy(a.view.K))
    seen = sighting(pair, K)
    assert seen.observer == 3
    assert torch.allclose(seen.pixels, expected[grid(b.depth.shape)].reshape(-1, 2).float(), atol=0.05)


def test_garbage_is_no_sighting(truths):
    pair = pair_of_truths(truths[1], truths[0], np.random.default_rng(0))
    assert sighting(garbage(pair, np.random.default_rng(1)), truths[0].view.K) is None
    nothing = torch.full_like(pair.points_a, torch.nan)
    assert sighting(replace(pair, points_a=nothing, points_b=nothing), truths[0].view.K) is None
    behind = sighting(replace(pair, points_b=-pair.points_b), truths[0].view.K)
    assert float(behind.weight.sum()) == 0.0


def test_memory_per_frame_does_not_depend_on_the_image(truths):
    journal, _ = stream(truths[:8])
    frames = [
        sum(t.numel() * 4 for t in (entry.depth, entry.static, entry.pixels))
        + sum(one.pixels.numel() * 4 + one.weight.numel() * 4 for one in entry.sightings)
        for entry in journal.entries.values()
    ]
    assert max(frames) < 35_000
    for shape in ((72, 96), (480, 640), (1080, 1920)):
        rows, columns = grid(shape)
        points = len(range(*rows.indices(shape[0]))) * len(range(*columns.indices(shape[1])))
        assert 0.6 * POINTS < points < 1.4 * POINTS
    assert all(
        part.untyped_storage().nbytes() < 10_000 for part in (journal.entries[3].depth, journal.entries[3].static)
    )


def test_what_cannot_be_aligned_is_said(truths):
    journal, results = stream(truths[:3])
    for entries, words in [
        ({}, "single frame"),
        ({0: journal.entries[0]}, "single frame"),
        ({0: journal.entries[0], 1: journal.entries[0]}, "no frame has a place in the world"),
    ]:
        alone = PairJournal()
        alone.entries = entries
        with pytest.raises(GlobalAlignmentError, match=words):
            align_globally(alone)
    journal.entries[1].K = 1.3 * journal.entries[1].K
    with pytest.raises(GlobalAlignmentError, match="focal length changes"):
        align_globally(journal)
