"""`easi3r bench`: one object with all figures, for every cue; bad values get sentences."""

import json
from dataclasses import replace

import pytest
import torch
from helpers_dust3r import SMALL_LINEAR, one_thread  # noqa: F401

from easi3r_ros.cli.app import main
from easi3r_ros.core import bench
from easi3r_ros.core.bench import BenchConfig, PlainBackbone, measure, moving_patterns, random_network
from easi3r_ros.core.config import BackboneConfig, ConfigError, PreprocessConfig
from easi3r_ros.core.dust3r.inference import Dust3rBackbone
from easi3r_ros.core.preprocess import prepare

KEYS = ("fps", "latency_ms", "stage_ms", "network_ms", "after_network_ms", "tflop", "floor_share", "kernels")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(bench.SIZES, "tiny", SMALL_LINEAR)
    monkeypatch.setattr(BenchConfig, "warm", 3)
    monkeypatch.setattr(BenchConfig.__init__, "__defaults__", (*BenchConfig.__init__.__defaults__[:-1], 3))


@pytest.mark.parametrize("resolution", [(64, 64), (96, 32), (32, 96)])
def test_images_of_any_whole_patches_stay_as_they_are(quick, resolution):
    report = measure(
        BenchConfig(size="tiny", resolution=resolution, device="cpu", cue="attention", frames=1, partners=2)
    )
    assert report["resolution"] == list(resolution) and report["fps"] > 0


def check(report, crossings):
    assert set(KEYS) | {"crossings", "peak_mb"} <= report.keys()
    assert set(report["latency_ms"]) == {"p50", "p95", "p99"}
    assert report["fps"] > 0 and report["tflop"] > 0 and report["peak_mb"] > 0
    assert report["network_ms"] > 0 and report["after_network_ms"] > 0
    assert {"encode", "decode", "motion", "alignment", "output"} <= report["stage_ms"].keys()
    assert report["crossings"] <= crossings and report["kernels"] is None


@pytest.mark.parametrize("cue", ["attention", "fused"])
def test_the_command_prints_one_object(quick, cue, capsys):
    line = ["bench", "--size", "tiny", "--resolution", "96x64", "--device", "cpu", "--cue", cue, "--frames", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--json", "--plain", "--partners", "2"])
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out)
    check(report, crossings=3)
    assert set(KEYS) <= report["plain"].keys() and report["resolution"] == [96, 64] and report["cue"] == cue


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "huge"}, "must be one of: full, tiny"),
        ({"resolution": (100, 64)}, "multiples of 16"),
        ({"cue": "guess"}, "must be one of: attention, geometry, fused"),
        ({"frames": 0}, "at least 1"),
        ({"passes": 3}, "passes 1 or 2"),
    ],
)
def test_bad_values_get_sentences(options, words):
    with pytest.raises(ConfigError, match=words):
        BenchConfig(**options)
    with pytest.raises(ConfigError, match="width x height"):
        from easi3r_ros.cli.bench import parsed_resolution

        parsed_resolution("512")
    with pytest.raises(ConfigError, match="not available"):
        measure(BenchConfig(device="cuda:17" if torch.cuda.is_available() else "cuda"))


def test_the_plain_way_gives_the_same():
    """Encoded again for every pair, one at a time, attention as a matrix: to 1e-4, also with masks."""
    network = random_network(SMALL_LINEAR, torch.device("cpu"))
    config = BackboneConfig(device="cpu")
    fast, plain = Dust3rBackbone(network, config), PlainBackbone(network, config)
    inputs = [prepare(next(moving_patterns((96, 64))), fast.input_spec, PreprocessConfig(96))] * 2
    inputs = [replace(x, frame=replace(x.frame, index=i)) for i, x in enumerate(inputs)]
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[:32] = True
    for masks in (None, {0: mask, 1: mask}):
        (a,), (b,) = (way.decode([tuple(way.encode(x) for x in inputs)], masks) for way in (fast, plain))
        for name in ("points_a", "points_b", "conf_a", "conf_b"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a.evidence.attention.source, b.evidence.attention.source, rtol=1e-4, atol=1e-4)
