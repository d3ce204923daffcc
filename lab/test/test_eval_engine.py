"""The measurements of the engine, small."""

import os

import numpy as np
import pytest
import torch
from easi3r_lab.eval import after_network, long_stream, network_part
from helpers_dust3r import SMALL, SMALL_LINEAR, one_thread  # noqa: F401

from easi3r_ros.core import bench


@pytest.mark.parametrize("cue", ["attention", "fused"])
def test_nothing_outlives_the_window_and_memory_is_flat(monkeypatch, cue):
    monkeypatch.setitem(bench.SIZES, "tiny", SMALL_LINEAR)
    result = long_stream.run(frames=40, cue=cue, window=4)
    assert result.oldest < 10, "offsets reach nine frames back"
    assert max(result.tensors_mb[3:]) <= min(result.tensors_mb[3:]) + 0.05
    assert len(result.resident_mb) == 8


def test_the_network_part(monkeypatch):
    monkeypatch.setitem(bench.SIZES, "tiny", SMALL)
    part = network_part.measure("tiny", (96, 64), rounds=1)
    fast, plain = part.frame(partners=5)
    assert part.difference < 1e-4 and 0 < fast < plain


def test_after_the_network_two_checkouts_are_compared(tmp_path):
    rng = np.random.default_rng(0)
    frames, shape = after_network.WARM + 1, (64, 96)
    depth = np.broadcast_to(np.linspace(2.2, 1.8, shape[0])[:, None], (frames, *shape)).astype(np.float32)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = 0.02 * np.arange(frames)
    tiles = rng.integers(0, 256, (shape[0] // 8, (shape[1] + 40) // 8, 3), dtype=np.uint8)
    wall = np.kron(tiles, np.ones((8, 8, 1), np.uint8))  # noise alone would be refused
    images = np.stack([wall[:, i : i + shape[1]] for i in range(frames)])
    masks = np.zeros((frames, *shape), bool)
    masks[:, 16:32, 32:64] = True
    K = np.array([[80.0, 0, 48], [0, 80, 32], [0, 0, 1]])
    path = tmp_path / "recording.npz"
    np.savez(path, images=images, masks=masks, depth=depth, K=K, world_from_cam=poses)
    here = after_network.HERE
    costs = after_network.compare(path, (here, here), "attention", frames=1, rounds=1, notify=lambda _: None)
    assert len(costs) == 2 and all(cost.wall_ms > 0 and cost.cpu_ms > 0 for cost in costs)
    assert {"motion", "motion_masked", "alignment"} <= costs[0].stage_ms.keys()
    with pytest.raises(RuntimeError, match="failed"):
        after_network.compare(path, (here,), "guess", 1, 1, lambda _: None)
    assert os.environ.get("PYTHONPATH", "") != str(here) and torch.get_num_threads() == 1
