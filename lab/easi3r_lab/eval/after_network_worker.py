"""Run by `after_network` with the sources of one commit: what a frame costs when the network answers at once.

Alone in its process, and it knows the layouts of the commit before the engine and of every one since: that is why it
imports nothing of the laboratory.

    python after_network_worker.py RECORDING.npz CUE FRAMES
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from easi3r_ros.core.config import PipelineConfig, WindowConfig, with_settings
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Features, Frame, InputSpec, PairAttention, PairEvidence, PairGeometry, Partners

try:
    from easi3r_ros.core.backbones.base import Backbone
except ImportError:
    from easi3r_ros.core.backbone import Backbone

PATCH, WIDTH, CHANNELS = 16, 1024, 144  # of the published ViT-Large: 12 layers of 12 heads
WARM = 10  # frames until the window is full


class Clocks(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float  # of all threads of this process

    @staticmethod
    def now() -> Clocks:
        return Clocks(time.perf_counter(), time.process_time())

    def __add__(self, other: Clocks) -> Clocks:
        return Clocks(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Clocks) -> Clocks:
        return Clocks(self.wall - other.wall, self.cpu - other.cpu)


class RecordedRun(Backbone):
    """A network that has all answers already. Its own time is taken out."""

    name, default_partners, has_attention = "recorded", Partners(steps=(1, 3, 5, 7, 9)), True

    def __init__(self, recording: dict[str, np.ndarray]):
        self._recording = {name: torch.from_numpy(values) for name, values in recording.items()}
        height, width = recording["images"].shape[1:3]
        self.input_spec = InputSpec(width, PATCH)
        self._grid = height // PATCH, width // PATCH
        self._mixing = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
        self.spent = Clocks(0.0, 0.0)

    @contextmanager
    def _metered(self):
        start = Clocks.now()
        yield
        self.spent = self.spent + (Clocks.now() - start)

    def encode(self, image):
        with self._metered():
            index = image.frame.index
            pixels = self._recording["images"][index].float() / 255
            moving = self._recording["masks"][index].float()[..., None]
            patches = torch.nn.functional.avg_pool2d(torch.cat((pixels, moving), -1).permute(2, 0, 1)[None], PATCH)[0]
            tokens = patches.flatten(1).T @ self._mixing
            tokens = tokens + 0.1 * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(index))
            return Features(image, tokens, self._grid)

    def decode(self, pairs, masks=None):
        with self._metered():
            return [self._answer(a.index, b.index) for a, b in pairs]

    def _answer(self, a, b):
        dice = torch.Generator().manual_seed(1000 * a + b)
        points_a, points_b = self._points(a, a), self._points(b, a)
        scale = float(torch.rand(1, generator=dice) + 0.5)
        noise = 1 + 0.01 * torch.randn(points_a.shape[:2], generator=dice)[..., None]
        confidence = [1 + 10 / self._recording["depth"][i] for i in (a, b)]
        attention = PairAttention(self._logits(b, dice, -1.0), self._logits(a, dice, 1.0))
        evidence = PairEvidence(attention=attention)
        return PairGeometry(a, b, points_a * noise * scale, points_b * noise * scale, *confidence, evidence=evidence)

    def _points(self, index, camera):
        """Of a frame, in the camera of another, as if nothing moved."""
        depth, K = self._recording["depth"][index], self._recording["K"].float()
        v, u = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in depth.shape), indexing="ij")
        rays = torch.stack(((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)), -1)
        poses = self._recording["world_from_cam"].double()
        relative = (torch.linalg.inv(poses[camera]) @ poses[index]).float()
        return rays * depth[..., None] @ relative[:3, :3].T + relative[:3, 3]

    def _logits(self, index, dice, sign):
        moving = self._recording["masks"][index].float()[None, None]
        share = torch.nn.functional.avg_pool2d(moving, PATCH)[0, 0, ..., None]
        noise = torch.randn(*self._grid, CHANNELS, generator=dice)
        return sign * share + (0.2 + 0.5 * share) * noise


def main(path: str, cue: str, frames: int) -> dict:
    recording = dict(np.load(path))
    backbone = RecordedRun(recording)
    config = PipelineConfig(window=WindowConfig(size=10))
    pipeline = Pipeline(with_settings(config, {"motion.cue": cue}), backbone)
    milliseconds, cpu_milliseconds, stages, overlap, poses = [], [], {}, [], []
    for index in range(WARM + frames):
        frame = Frame(index, index * 100_000_000, "camera", recording["images"][index], recording["K"])
        backbone.spent = Clocks(0.0, 0.0)
        start = Clocks.now()
        result = pipeline.push(frame)
        mask, *_ = result.mask, result.probability, result.depth, result.confidence
        elapsed = Clocks.now() - start - backbone.spent
        poses.append(result.world_from_cam)
        if index >= WARM:
            milliseconds.append(1e3 * elapsed.wall)
            cpu_milliseconds.append(1e3 * elapsed.cpu)
            for name, value in result.latency_ms.items():
                stages.setdefault(name, []).append(value)
            truth = recording["masks"][index]
            overlap.append(float((mask & truth).sum() / max((mask | truth).sum(), 1)))
    return {
        "milliseconds": milliseconds,
        "cpu_milliseconds": cpu_milliseconds,
        "stage_ms": {name: float(np.median(values)) for name, values in stages.items()},
        "state": result.state.value,
        "iou": float(np.mean(overlap)),
        "moved": float(np.linalg.norm(poses[-1][:3, 3])),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
