"""`easi3r-lab bench align`: rows about the batch alignment and their tables; test_alignment_batch has the figures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from easi3r_lab.cli import bench_align
from easi3r_lab.cli.app import main
from easi3r_lab.eval import alignment_bench, alignment_twins
from easi3r_lab.eval.alignment_bench import SolverRow, curve_row, twin_rows
from easi3r_lab.eval.alignment_twins import box_room
from easi3r_lab.eval.recorded_alignments import AlignmentFileError, read_variants
from easi3r_lab.published.objective import Optimised
from helpers_alignment import GOLDEN, one_thread, recorded_variants  # noqa: F401

STEPS = 4


@pytest.fixture
def short_file(tmp_path):
    """One recorded variant, as if it had been optimised for a few steps only."""
    if not GOLDEN.exists():
        pytest.skip(f"needs {GOLDEN}")
    with np.load(GOLDEN) as file:
        names = [name for name in file.files if "/" not in name or name.startswith("demo_noflow/")]
        arrays = {name: file[name] for name in names}
    options = json.loads(str(arrays["demo_noflow/options_json"])) | {"niter": STEPS}
    arrays["demo_noflow/options_json"] = np.array(json.dumps(options))
    for curve in ("loss_curve", "lr_curve"):
        arrays[f"demo_noflow/{curve}"] = arrays[f"demo_noflow/{curve}"][:STEPS]
    np.savez(tmp_path / "short.npz", **arrays)
    return tmp_path / "short.npz"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_tables_of_recorded_alignments(short_file, capsys):
    bench_align._print_recorded(short_file)
    out, err = capsys.readouterr()
    rows = [cells(line) for line in out.splitlines() if line.lstrip().startswith("| demo")]
    assert [row[0] for row in rows] == ["demo_noflow", "demo_noflow", "demo_noflow, static weighting"]
    curve, solver, static = rows
    assert len(curve) == 6 and float(curve[1]) == float(curve[3])  # all steps are early ones
    assert 0.999 < float(solver[1]) <= 1.0 and float(solver[2]) < 1.05
    assert static[1] == "-" and float(static[2]) < 0.5
    assert int(solver[7]) < 15 and float(solver[6]) > 1 and solver[5].endswith(" x")
    assert "demo_noflow, static weighting ..." in err


def test_curve_row():
    variant = recorded_variants()["flow_mask"]
    losses = torch.from_numpy(variant.losses).clone()
    losses[10] *= 1 + 1e-3
    losses[100] *= 1 - 1e-2
    losses[-1] *= 1 + 1e-5
    row = curve_row(variant, Optimised(variant.init.parameters, losses, torch.from_numpy(variant.rates)))
    found = (row.early, row.median, row.largest, row.last)
    np.testing.assert_allclose(found, (1e-3, 0.0, 1e-2, 1e-5), rtol=1e-6, atol=1e-12)
    assert row.recorded_spread == pytest.approx(7.35e-5, rel=1e-2)


def test_rows_of_a_twin():
    no_flow, flow, unmasked = twin_rows([box_room(seed=6, frames=5, size=(48, 32))], iterations=30)
    assert [row.name for row in (no_flow, flow, unmasked)] == [
        f"box room 6, {case}" for case in ("no flow", "flow", "flow, no masks")
    ]
    for row in (no_flow, flow, unmasked):
        assert 0.5 < row.objective < 1.0 and row.ate > 0 and row.speed > 5 and row.passes > 3
    assert flow.ate < 1.0, "Adam has only begun"


def test_files_that_hold_no_alignment(tmp_path, short_file):
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    (tmp_path / "text.npz").write_text("hello")
    with np.load(short_file) as file:
        np.savez(tmp_path / "cut.npz", **{name: file[name] for name in file.files if not name.endswith("final_tum")})
        kept = {name: file[name] for name in file.files if not name.endswith("final_temporal_term")}
    np.savez(tmp_path / "incomplete.npz", **kept)
    assert len(read_variants(tmp_path / "cut.npz")) == 1  # not everything is needed
    for name, message in (
        ("nothing.npz", "not there"),
        ("text.npz", "no golden file"),
        ("other.npz", "records no alignment"),
        ("incomplete.npz", "has no 'demo_noflow/final_temporal_term'"),
    ):
        with pytest.raises(AlignmentFileError, match=message):
            read_variants(tmp_path / name)


def test_wrong_file_on_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "align", "--golden", str(tmp_path / "nothing.npz"), "--twins", "0", "--no-streams"])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/nothing.npz is not there or is no golden file (.npz)\n"


def test_twins_are_other_scenes_made_alike():
    first, again, other = (box_room(seed, frames=6, size=(48, 32)) for seed in (1, 1, 2))
    assert torch.equal(first.problem.points_a, again.problem.points_a)
    assert not np.allclose(first.truth, other.truth, atol=1e-2)
    for scene in (first, other):
        problem = scene.problem
        assert 0.05 < float(problem.masks.float().mean()) < 0.4
        steps = np.linalg.norm(np.diff(scene.truth[:, :3, 3], axis=0), axis=1)
        assert steps.min() > 0.05 and steps.max() < 0.3
        assert np.ptp(np.log(problem.points_a[..., 2].mean((1, 2)).numpy())) > 0.5, "hidden scales"
        # Noise in all directions: what one frame's own pointmaps in two pairs have in common is not even the ray.
        pairs = (problem.edges[:, 0] == 0).nonzero().flatten()[:2]
        rays = [points / points.norm(dim=-1, keepdim=True) for points in problem.points_a[pairs]]
        assert 0.005 < float((rays[0] - rays[1]).norm(dim=-1).median()) < 0.05


def test_tables_of_twins(capsys, monkeypatch):
    row = SolverRow("a, flow", 0.99985, 0.9, 1.0, 1.1, 200.0, 50.0, 8)
    scenes = []

    def rows(twins):
        scenes.extend(twins)
        return [row, replace(row, objective=float("nan"))]

    monkeypatch.setattr(alignment_twins, "box_room", lambda seed: f"scene {seed}")
    monkeypatch.setattr(alignment_bench, "twin_rows", rows)
    bench_align._print_twins(2)
    assert scenes == ["scene 1", "scene 2"]
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("|")]
    assert cells(lines[0])[:3] == ["other scene", "objective", "ATE"] and set(lines[1]) <= set("|-: ")
    assert cells(lines[2]) == ["a, flow", "0.99985", "0.900", "1.000", "1.100", "200 x", "50", "8"]
    assert cells(lines[3])[1] == "-"
