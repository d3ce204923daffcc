"""Memory and time of the first pass of a full-size network, measured in a process of its own with generated weights.

`python -m easi3r_lab.eval.memory [TIMINGS.json]` prints one line of JSON; with the recorded timings of the official
code also each stage's CPU time relative to them (which other load disturbs less than wall time).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from easi3r_ros.core.config import BackboneConfig
from easi3r_ros.core.dust3r.generated import generated_network
from easi3r_ros.core.dust3r.inference import Dust3rBackbone
from easi3r_ros.core.dust3r.network import NetworkConfig
from easi3r_ros.core.types import Features, Frame, ImageTransform, NetworkInput

WIDTH, HEIGHT, PAIRS = 512, 288, 10
OFFICIAL = {  # our stage -> its name in the recorded timings
    "encode_1_image": "encode_1_image",
    "decoder_with_statistics": "decoder_with_capture",
    "decoder_with_statistics_and_masks": "decoder_with_capture_and_masks",
    "head_1": "head_1",
}


def measure(timings: Path | None = None) -> dict[str, float]:
    """Runs `main` in a fresh process, so that nothing of this one is counted."""
    command = [sys.executable, "-m", __name__, *([str(timings)] if timings else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(timings: Path | None) -> None:
    """Prints gigabytes (1e9 bytes) and seconds. Linux only: the peak comes from /proc."""
    network = generated_network(NetworkConfig())
    weights = sum(parameter.nbytes for parameter in network.parameters()) / 1e9
    loaded = _resident("VmRSS")
    backbone = Dust3rBackbone(network, BackboneConfig(device="cpu", dtype="float32", batch_size=PAIRS))
    features = [backbone.encode(image) for image in _noise(PAIRS // 2 + 1)]
    wall, _ = _timed(lambda: backbone.decode(_both_ways(features)))
    peak = _resident("VmHWM")
    stages = _stages(backbone, features)
    report = {"weights_gb": weights, "loaded_gb": loaded, "peak_gb": peak, "peak_above_weights_gb": peak - weights}
    report |= {f"decode_{PAIRS}_pairs_s": wall} | {f"{name}_s": wall for name, (wall, _) in stages.items()}
    if timings:
        official = json.loads(timings.read_text())["network"][f"dpt512_{WIDTH}x{HEIGHT}"]
        report |= {
            f"{name}_ratio": stages[name][1] / official[theirs]["min_cpu_s"] for name, theirs in OFFICIAL.items()
        }
    print(json.dumps({name: round(value, 3) for name, value in report.items()}))


@torch.no_grad()
def _stages(backbone: Dust3rBackbone, features: list[Features]) -> dict[str, tuple[float, float]]:
    """Best of three, wall and CPU seconds, for one image or one pair."""
    network, (a, b), grid = backbone.network, (f.tokens[None] for f in features[:2]), features[0].grid
    mask = (torch.arange(a.shape[1]) < a.shape[1] // 4)[None]  # a quarter of the image moves
    decoded = network.decode(a, b, grid)
    levels = [decoded.tokens_a[layer] for layer in network.config.head_layers]
    calls: dict[str, Callable[[], object]] = {
        "encode_1_image": lambda: backbone.encode(features[0].input),
        "decoder_with_statistics": lambda: network.decode(a, b, grid),
        "decoder_with_statistics_and_masks": lambda: network.decode(a, b, grid, (mask, mask)),
        "head_1": lambda: network.downstream_head1(levels, grid),
    }
    return {name: min((_timed(call) for _ in range(3)), key=lambda t: t[1]) for name, call in calls.items()}


def _both_ways(features: list[Features]) -> list[tuple[Features, Features]]:
    """The newest frame with every other, both orders: what a pushed frame costs."""
    newest = features[-1]
    return [pair for other in features[:-1] for pair in ((newest, other), (other, newest))]


def _noise(count: int) -> list[NetworkInput]:
    images = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    transform = ImageTransform((WIDTH, HEIGHT), (WIDTH, HEIGHT), (0, 0), (WIDTH, HEIGHT))
    return [NetworkInput(Frame(i, i, "camera", image), image, None, transform) for i, image in enumerate(images)]


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def _resident(field: str) -> float:
    """Resident memory now (VmRSS) or at its peak (VmHWM) in gigabytes.

    Not `resource.getrusage`: its peak starts from the parent's.
    """
    kilobytes = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes[1]) * 1024 / 1e9


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
