"""The measurement of memory and time, on a small network."""

import json

from easi3r_lab.eval import memory
from helpers_dust3r import SMALL, one_thread  # noqa: F401


def test_report(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(memory, "NetworkConfig", lambda: SMALL)
    monkeypatch.setattr(memory, "WIDTH", 64)
    monkeypatch.setattr(memory, "HEIGHT", 32)
    official = {name: {"min_cpu_s": 1e-6} for name in memory.OFFICIAL.values()}
    (tmp_path / "timings.json").write_text(json.dumps({"network": {"dpt512_64x32": official}}))
    memory.main(tmp_path / "timings.json")
    report = json.loads(capsys.readouterr().out)
    assert report["weights_gb"] < report["loaded_gb"] <= report["peak_gb"]
    assert abs(report["peak_above_weights_gb"] - (report["peak_gb"] - report["weights_gb"])) < 2e-3
    assert all(report[f"{name}_ratio"] > 1 for name in memory.OFFICIAL)
    assert report["decode_10_pairs_s"] > 0
