"""The measure of ghosts and objects, on results that are the truth itself."""

from dataclasses import replace

import numpy as np
import pytest
from easi3r_lab.eval import moving_things
from easi3r_lab.eval.moving_things import map_scores, score_of_objects, with_true_depth
from easi3r_lab.eval.synthetic_clips import ClipSpec, camera_frame, render

from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.types import FrameResult, TrackingState

SPEC = ClipSpec("walkers", 3, 16, (96, 72), rate=8.0)
CONFIG = with_settings(PipelineConfig(), {"clouds.movers": "measured", "objects.min_area": 0.004})


@pytest.fixture(scope="module")
def frames():
    return render(SPEC)


def known(frames, masked=True):
    """What a perfect pipeline says."""
    results = []
    for frame in frames:
        mask = frame.mask & masked
        results.append(
            FrameResult(
                frame=camera_frame(frame),
                mask=mask,
                probability=mask.astype(np.float32),
                depth=frame.depth,
                confidence=np.full(frame.depth.shape, 3, np.float32),
                K=frame.view.K,
                world_from_cam=frame.view.world_from_cam,
                covariance=np.eye(6) * 1e-6,
                state=TrackingState.TRACKING,
                reason="",
                metric=False,
                residual=0.0,
                dynamic_fraction=float(mask.mean()),
                window=(frame.index,),
                latency_ms={},
                evidence={},
            )
        )
    return results


def test_true_masks_leave_no_ghost_and_no_masks_leave_many(frames, monkeypatch):
    monkeypatch.setattr(moving_things, "results_of", lambda clip, config: known(clip, config.motion.threshold < 1))
    scores = map_scores(frames, CONFIG)
    assert scores["neither"].ghosts > 50 and scores["neither"].static > 500
    assert scores["masks alone"].ghosts <= 0.02 * scores["neither"].ghosts
    assert scores["masks and removal"].ghosts == 0
    assert scores["removal alone"].ghosts < scores["neither"].ghosts


def test_true_masks_and_depth_give_true_velocities(frames):
    score = score_of_objects(SPEC, frames, known(frames), CONFIG)
    assert score.movers >= 2 and score.found > 0.7 and score.false_objects == 0
    assert score.velocity_error < 0.5 * score.true_speed and score.position_error < 0.3


def test_the_unit_and_the_axes_of_the_world_do_not_matter(frames):
    """A world of three times the size, turned around: the same errors in metres."""
    turn = np.eye(4)
    turn[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    turned = []
    for result in known(frames):
        pose = turn @ result.world_from_cam
        pose[:3, 3] *= 3
        turned.append(replace(result, world_from_cam=pose, depth=result.depth * 3))
    ours, theirs = (score_of_objects(SPEC, frames, results, CONFIG) for results in (known(frames), turned))
    assert theirs.velocity_error == pytest.approx(ours.velocity_error, rel=0.05)
    assert theirs.position_error == pytest.approx(ours.position_error, rel=0.05)


def test_who_measures_depth_knows_it(frames):
    results = [replace(result, depth=result.depth * np.nan) for result in known(frames)]
    for frame, result in zip(frames, with_true_depth(frames, results), strict=True):
        np.testing.assert_array_equal(result.depth, np.where(np.isfinite(frame.depth), frame.depth, np.nan))
