"""`easi3r-lab verify` of recorded alignments, and that a deviation is found."""

import numpy as np
import pytest
from easi3r_lab.eval.golden import GoldenError, verify_file
from easi3r_lab.eval.golden_align import relative_error
from helpers_alignment import GOLDEN, one_thread, recorded_variants  # noqa: F401


def recorded_arrays(only: str = "demo_noflow") -> dict[str, np.ndarray]:
    """One variant: what the file records beside others."""
    if not GOLDEN.exists():
        pytest.skip(f"needs {GOLDEN}")
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files if "/" not in name or name.startswith(f"{only}/")}


def failures(path) -> set[str]:
    return {check.quantity for check in verify_file(path) if not check.passed}


def test_everything_that_was_recorded():
    if not GOLDEN.exists():
        pytest.skip(f"needs {GOLDEN}")
    checks = verify_file(GOLDEN)
    assert {check.quantity: check.max_error for check in checks if not check.passed} == {}
    assert len(checks) == 145
    assert all(check.tolerance <= 1e-4 for check in checks if "solver" not in check.quantity)


def test_a_deviation_is_found_where_it_is(tmp_path):
    arrays = recorded_arrays()
    arrays["demo_noflow/init_grad_im_focals"] = 1.001 * arrays["demo_noflow/init_grad_im_focals"]
    arrays["demo_noflow/final_temporal_term"] = 1.001 * arrays["demo_noflow/final_temporal_term"]
    arrays["demo_noflow/final_loss_full"] = 0.999 * arrays["demo_noflow/final_loss_full"]
    arrays["mst_edges"] = arrays["mst_edges"][::-1]
    np.savez(tmp_path / "x.npz", **arrays)
    assert failures(tmp_path / "x.npz") == {
        "mst_edges",
        "demo_noflow/init_grad_im_focals",
        "demo_noflow/final_temporal_term",
        "demo_noflow/final_loss_full",
        "demo_noflow/solver objective excess",
    }


def test_an_incomplete_file_is_refused(tmp_path):
    arrays = recorded_arrays()
    del arrays["demo_noflow/init_temporal_term"]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(GoldenError, match="incomplete: it has no 'demo_noflow/init_temporal_term'"):
        verify_file(tmp_path / "x.npz")


def test_relative_error():
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.5 / np.hypot(3.0, 4.5))
    assert relative_error(1e-9, 0.0) < 1e-2 < relative_error(1e-3, 0.0)
    assert relative_error(np.zeros(2), np.zeros(3)) == float("inf")
