"""`easi3r-lab verify`: everything that the official implementation recorded, and that a deviation is found."""

import json

import numpy as np
import pytest
import torch
from easi3r_lab.eval import golden_pair, golden_window
from easi3r_lab.eval.golden import GoldenError, max_error, verify_file
from helpers_dust3r import GOLDEN, one_thread  # noqa: F401

CONFIG = {
    **{"head_type": "dpt", "pos_embed": "RoPE100", "img_size": ["512", "512"]},
    **{"enc_embed_dim": 32, "enc_depth": 2, "enc_num_heads": 2},
    **{"dec_embed_dim": 64, "dec_depth": 12, "dec_num_heads": 4},
}


def failures(checks):
    return {check.quantity: check.max_error for check in checks if not check.passed}


def rewritten(source, target, **changes):
    with np.load(source) as archive:
        arrays = {**archive, **changes}
    np.savez(target, **{name: value for name, value in arrays.items() if value is not None})
    return target


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "quantities"),
    [("small_dpt", 47), ("small_linear", 47), ("window", 54), ("full_dpt512", 21), ("full_linear224", 21)],
)
def test_official_numbers(name, quantities):
    notices = []
    checks = verify_file(GOLDEN / f"golden_{name}.npz", notices.append)
    assert failures(checks) == {}
    assert len(checks) == quantities
    assert notices == []


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("p1_pts3d_2", lambda x: x + 1e-3),
        ("p2_dec1_l09", lambda x: x * 1.001),
        ("p1_cross_attn_k_1", lambda x: np.where(np.arange(x.size).reshape(x.shape) == 77, np.nan, x)),
        ("tokmask1", lambda x: ~x),
        ("p2_conf_1", lambda x: x[:-1]),
        ("weight_keys", lambda x: x[::-1]),
    ],
)
def test_a_deviation_is_found_where_it_is(tmp_path, array, change):
    source = GOLDEN / "golden_small_linear.npz"
    with np.load(source) as archive:
        changed = change(archive[array])
    assert list(failures(verify_file(rewritten(source, tmp_path / "x.npz", **{array: changed})))) == [array]


def test_other_weights_fail(tmp_path):
    path = rewritten(GOLDEN / "golden_small_linear.npz", tmp_path / "x.npz", salt=np.array("x"))
    assert {"weight_first4", "enc_1", "p1_pts3d_1", "p2_cross_logits_2_l11"} <= failures(verify_file(path)).keys()


def test_arrays_that_are_not_known_are_mentioned(tmp_path):
    path = rewritten(
        GOLDEN / "golden_small_linear.npz", tmp_path / "x.npz", extra=np.zeros(3), p1_conf_1_half=np.zeros(3)
    )
    notices = []
    assert not failures(verify_file(path, notices.append))
    assert notices == [
        "x.npz: 'extra' is not known and not compared",
        "x.npz: 'p1_conf_1_half' is not known and not compared",
    ]


@pytest.mark.parametrize(("height", "width", "head"), [(112, 80, "dpt"), (48, 112, "linear")])
def test_twins_of_pairs_with_other_sizes(tmp_path, height, width, head):
    """Portrait, odd token counts, other widths and salts: everything is read from the file."""
    rng = np.random.default_rng(0)
    recorded = {f"img{i}_u8": rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for i in (1, 2)}
    recorded |= {f"mask{i}": rng.random((height, width)) > 0.99 for i in (1, 2)}
    recorded |= {"config_json": np.array(json.dumps({**CONFIG, "head_type": head})), "salt": np.array("twin")}
    recorded["p1_cross_logits_2_l11"] = recorded["p1_dec1_l07"] = np.zeros(0)
    ours = golden_pair.recompute(recorded, 1e-4)
    grid, tokens = (height // 16, width // 16), height * width // 256
    assert ours["p1_pts3d_1"].shape == (height, width, 3)
    assert ours["p2_cross_attn_k_2"].shape == (*grid, 48)
    assert ours["p2_cross_logits_2_l11"].shape == (4, tokens, tokens)
    assert ours["p1_dec1_l07"].shape == (tokens, 64)
    np.savez(tmp_path / "twin.npz", **{**recorded, **ours})
    assert not failures(verify_file(tmp_path / "twin.npz"))


def test_logits_average_to_the_statistics():
    with np.load(GOLDEN / "golden_small_linear.npz") as archive:
        ours = golden_pair.recompute(dict(archive), 1e-4)
    statistic = ours["p1_cross_attn_k_1"].reshape(24, 12, 12)[:, 11]  # (N, heads) of the last block
    assert np.allclose(ours["p1_cross_logits_1_l11"].mean(axis=1).T, statistic, atol=1e-5)


def test_twins_of_windows(tmp_path):
    rng, frames = np.random.default_rng(0), 5
    recorded = {"frames_u8": rng.integers(0, 256, (frames, 96, 64, 3), dtype=np.uint8), "salt": np.array("twin")}
    recorded |= {"scene_graph": np.array("swin-2-noncyclic"), "config_json": np.array(json.dumps(CONFIG))}
    recorded |= {"edges": np.array(sorted((a, b) for a in range(5) for b in range(5) if 0 < abs(a - b) <= 2))}
    for prefix in ("p1_", "p2_"):
        recorded[prefix + "kmeans_labels"] = rng.integers(0, 64, (frames, 6, 4)).astype(np.int32)
        recorded[prefix + "masks"] = rng.random((frames, 96, 64)) > 0.999
        recorded[prefix + "upsampled_map"] = rng.random((frames, 96, 64), dtype=np.float32)
        recorded[prefix + "threshold"] = np.float32(0.6)
    ours = golden_window.recompute(recorded, 1e-4)
    assert np.array_equal(ours["edges"], recorded["edges"])
    assert ours["p1_attn_k_i"].shape == (14, 6, 4, 48)
    assert ours["p1_tokmask"].shape == (frames, 6, 4)
    assert not np.allclose(ours["p1_pts3d_i"], ours["p2_pts3d_i"], atol=1e-4)


def test_a_wrong_graph_is_found(tmp_path):
    recorded = {"scene_graph": np.array("swin-1-noncyclic"), "edges": np.array([[0, 1], [1, 0]])}
    ours = golden_window._in_recorded_order([(0, 1), (1, 2), (1, 0), (2, 1)], [(0, 1), (1, 0)])
    assert max_error(ours, recorded["edges"]) == float("inf")


def test_masks_may_differ_only_next_to_the_threshold():
    upsampled = torch.tensor([[[0.5, 0.6, 0.60005, 0.7]]])
    analysis = type("A", (), {"motion": type("M", (), {"upsampled": upsampled})})
    recorded = {
        "p1_upsampled_map": np.linspace(0, 1, 100, dtype=np.float32),
        "p1_threshold": np.float32(0.60001),
        "p1_masks": np.array([[[True, True, False, True]]]),
    }
    ours = golden_window._decisions("p1_", recorded, analysis, 1e-4)["p1_masks"]
    assert ours.tolist() == [[[False, True, False, True]]]


def test_max_error_is_the_allclose_rule():
    recorded = np.array([0.0, 100.0, -3.0])
    assert max_error(recorded + 1e-4 * (1 + np.abs(recorded)), recorded) == pytest.approx(1e-4)
    assert max_error(np.array([np.nan]), np.array([np.nan])) == float("inf")
    assert max_error(np.array([np.inf]), np.array([np.inf])) == 0
    assert max_error(np.zeros(2), np.zeros(3)) == float("inf")
    assert max_error(np.array(["a"]), np.array(["a"])) == 0
    assert max_error(np.array([True]), np.array([False])) > 0.1


def test_unknown_files_are_refused(tmp_path):
    zero = np.zeros(1)
    np.savez(tmp_path / "other.npz", a=zero)
    np.save(tmp_path / "array.npy", zero)
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    for name, message in (
        ("other.npz", "none of the known kinds"),
        ("nothing.npz", "there is no file"),
        *((name, "not a golden file") for name in ("array.npy", "text.npz", "empty.npz", "cut.npz")),
    ):
        with pytest.raises(GoldenError, match=message):
            verify_file(tmp_path / name)
