"""The demo as a whole: the real node as a process, a small clip over DDS, numbers, pictures, and clear failures."""

from __future__ import annotations

import json
import sys
from functools import partial

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from easi3r_lab.demo import DemoFailed, NodeFailed, run_demo
from easi3r_lab.demo import session as run
from easi3r_lab.demo.client import NodeResult
from easi3r_lab.demo.figures import draw, evaluate
from easi3r_lab.synthetic import Clip, render_clip
from easi3r_lab.synthetic.motions import pose

from easi3r_ros.core.types import PointCloud
from easi3r_ros.messages.message_types import WindowStatus

PRINTED = [
    "frames_in",
    "frames_out",
    "drops",
    "fps",
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_worst",
    "mask_iou",
    "ate",
    "ate_percent_of_path",
    "peak_memory_mb",
]
PICTURES = {"contact_sheet.png", "trajectory.png", "top_view.png"}
SMALL = {"frames": 10, "rate": 10.0, "size": (160, 120), "say": lambda text: None}


def test_the_real_node_on_a_small_clip(tmp_path):
    # In bag mode, so that it does not depend on how busy the machine is.
    numbers = run_demo(tmp_path / "new" / "folder", **SMALL, node_arguments=("-p", "bag_mode:=true"))
    assert list(numbers) == PRINTED
    assert (numbers["frames_in"], numbers["frames_out"], numbers["drops"]) == (10, 10, 0)
    assert numbers["mask_iou"] > 0.2 and numbers["ate_percent_of_path"] < 20
    assert 0 < numbers["latency_ms_p50"] <= numbers["latency_ms_p95"]
    assert 50 < numbers["peak_memory_mb"] < 4000
    written = {path.name: path for path in (tmp_path / "new" / "folder").iterdir()}
    assert set(written) == PICTURES | {"demo.json", "node.log"}
    details = json.loads(written["demo.json"].read_text())
    assert {name: details[name] for name in PRINTED} == numbers
    assert details["backbone"] == "classical" and details["preset"] == "walkers"


def test_a_node_that_cannot_start(tmp_path):
    with pytest.raises(NodeFailed, match=r"exit status 1(.|\n)*motion.threshold"):
        run_demo(tmp_path, **SMALL, node_arguments=("-p", "motion.threshold:=7.0"))


def test_a_node_that_cannot_be_configured(tmp_path):
    with pytest.raises(DemoFailed, match=r"did not start, it is unconfigured(.|\n)*no_such_file"):
        run_demo(tmp_path, **SMALL, node_arguments=("-p", "backbone.checkpoint:=no_such_file.pth"))


def test_a_node_that_never_answers(tmp_path, monkeypatch):
    silent = partial(run.running_node, command=(sys.executable, "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(run, "running_node", silent)
    monkeypatch.setattr(run, "_START_LIMIT", 0.5)
    with pytest.raises(DemoFailed, match="not active after 0.5 s"):
        run_demo(tmp_path, **SMALL)


SCALE = 0.2  # of the pretended estimate


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip("walkers", seed=0, frames=6, size=(160, 120), rate=4.0)


def perfect(clip: Clip, index: int) -> NodeResult:
    """What an ideal node says about a frame: everything true, in its own world and unit."""
    world_from_truth = pose((5.0, -2.0, 1.0), yaw=0.7, pitch=-0.4)
    world_from_cam = world_from_truth @ clip.world_from_cam[index]
    world_from_cam[:3, 3] *= SCALE
    mask, depth = clip.masks[index], SCALE * clip.depth[index]
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    xyz = np.stack([(u - clip.K[0, 2]) / clip.K[0, 0] * depth, (v - clip.K[1, 2]) / clip.K[1, 1] * depth, depth], -1)
    clouds = [
        PointCloud(xyz[chosen].astype(np.float32), clip.images[index][chosen], np.ones(chosen.sum(), np.float32))
        for chosen in (~mask, mask)
    ]
    return NodeResult(index, 1.0, mask, mask.astype(np.float32), depth, world_from_cam, *clouds, WindowStatus())


def test_truth_scores_perfectly(clip):
    found = evaluate([perfect(clip, index) for index in (0, 1, 3, 4, 5)], [0, 1, 3, 4, 5], clip)
    assert found.mask.jm == found.mask.fm == 1
    assert found.trajectory.ate < 1e-9 and found.trajectory.scale == pytest.approx(1 / SCALE)
    assert found.depth.abs_rel < 1e-6 and found.depth.coverage == 1


def test_frames_are_compared_with_their_own_truth(clip):
    """Results that are one frame late are worse in everything."""
    late = evaluate([perfect(clip, index) for index in range(5)], [1, 2, 3, 4, 5], clip)
    assert late.mask.jm < 0.9 and late.depth.abs_rel > 0.01


def test_frames_without_a_pose_count_for_the_mask_alone(clip):
    results = [perfect(clip, index) for index in range(6)]
    results[0] = NodeResult(**{**results[0].__dict__, "world_from_cam": None, "mask": ~results[0].mask})
    found = evaluate(results, list(range(6)), clip)
    assert found.mask.jm == pytest.approx(5 / 6) and found.trajectory.ate < 1e-9
    assert list(found.posed) == [1, 2, 3, 4, 5]
    lost = [NodeResult(**{**result.__dict__, "world_from_cam": None}) for result in results]
    with pytest.raises(ValueError, match="0 of 6 results have a pose"):
        evaluate(lost, list(range(6)), clip)


def test_draw(clip, tmp_path):
    results = [perfect(clip, index) for index in range(6)]
    draw(tmp_path, results, list(range(6)), clip, evaluate(results, list(range(6)), clip))
    assert {path.name for path in tmp_path.iterdir()} == PICTURES
