"""`easi3r-lab verify` of recorded metrics, and that a deviation is found."""

import json

import numpy as np
import pytest
from easi3r_lab.eval.golden import GoldenError, verify_file
from helpers_alignment import GOLDEN

METRICS = GOLDEN.with_name("golden_metrics.npz")
FILES = pytest.mark.skipif(not METRICS.exists(), reason=f"needs {METRICS}")


def ignore(text: str) -> None:
    pass


@FILES
def test_everything_that_can_be_compared():
    notices = []
    checks = verify_file(METRICS, notices.append)
    assert {check.quantity: check.max_error for check in checks if not check.passed} == {}
    assert len(checks) == 62
    assert len(notices) == 1 and "point clouds" in notices[0]


@FILES
def test_a_deviation_is_found_where_it_is(tmp_path):
    with np.load(METRICS) as file:
        arrays = dict(file)
    scalars = json.loads(METRICS.with_suffix(".json").read_text())
    arrays["mask/native/F_per_frame"] = arrays["mask/native/F_per_frame"] + 1e-3
    arrays["traj/1/sim3_t"] = arrays["traj/1/sim3_t"][::-1]
    scalars["traj"]["2"]["rpe_rot_deg"] *= 1.01
    scalars["depth"]["bonn/median"]["per_sequence"][2]["Abs Rel"] *= 1.001
    scalars["preprocess_sizes"][0]["output_wh"] = [512, 304]
    np.savez(tmp_path / "x.npz", **arrays)
    (tmp_path / "x.json").write_text(json.dumps(scalars))
    assert {check.quantity for check in verify_file(tmp_path / "x.npz", ignore) if not check.passed} == {
        "mask/native/F_per_frame",
        "traj/1/sim3_t",
        "traj/2/rpe_rot_deg",
        "depth/2 bonn/median Abs Rel",
        "preprocess 854x480 to 512",
    }


@FILES
def test_without_the_scalars_the_arrays_are_compared(tmp_path):
    (tmp_path / "alone.npz").symlink_to(METRICS)
    notices = []
    checks = verify_file(tmp_path / "alone.npz", notices.append)
    assert len(checks) == 17 and all(check.passed for check in checks)
    assert "there is no alone.json" in notices[0]


def test_an_incomplete_file_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **{"traj/0/gt_c2w": np.zeros(1)})
    with pytest.raises(GoldenError, match="incomplete: it has no 'traj/0/pred_c2w'"):
        verify_file(tmp_path / "x.npz", ignore)
