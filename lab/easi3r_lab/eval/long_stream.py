"""A stream without end: nothing of a frame that left the window stays alive, and memory does not grow."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch

from easi3r_ros.core.bench import SIZES, MeteredBackbone, moving_patterns
from easi3r_ros.core.config import BackboneConfig, PipelineConfig, with_settings
from easi3r_ros.core.dust3r.generated import random_network
from easi3r_ros.core.dust3r.inference import Dust3rBackbone
from easi3r_ros.core.engine import memory_used_mb
from easi3r_ros.core.pipeline import Pipeline


@dataclass(frozen=True)
class LongRun:
    resident_mb: list[float]  # of the process, at equal distances
    tensors_mb: list[float]  # all that are alive, at the same frames
    oldest: int  # how many frames before the newest one the oldest frame is of which something was alive, at its worst

    @property
    def growth_mb(self) -> float:
        """From the second checkpoint on: before the first, caches fill."""
        return self.resident_mb[-1] - self.resident_mb[1]


def run(frames: int, cue: str, window: int = 10, notify: Callable[[str], None] = lambda _: None) -> LongRun:
    """frames: at least 8 windows. The network is small and has generated weights."""
    size, device = (128, 96), torch.device("cpu")
    network = Dust3rBackbone(random_network(SIZES["tiny"], device), BackboneConfig(device="cpu"))
    settings = {"preprocess.long_side": size[0], "window.size": window, "motion.cue": cue}
    pipeline = Pipeline(with_settings(PipelineConfig(), settings), MeteredBackbone(network))
    stream, watched, oldest = moving_patterns(size), {}, 0
    resident, tensors = [], []
    for index in range(frames):
        pipeline.push(next(stream))
        watched[index] = [weakref.ref(x) for x in _tensors_of(pipeline, index)]
        watched = {i: refs for i, refs in watched.items() if any(ref() is not None for ref in refs)}
        oldest = max(oldest, index - min(watched, default=index))
        if (index + 1) % (frames // 8) == 0:
            resident.append(memory_used_mb(device))
            tensors.append(_alive_mb())
            notify(f"{index + 1} frames: {resident[-1]:.1f} MB, of which tensors {tensors[-1]:.2f} MB")
    return LongRun(resident, tensors, oldest)


def _tensors_of(pipeline: Pipeline, index: int) -> list[torch.Tensor]:
    """What is kept of a frame: its tokens, what its pairs say, its place in the world."""
    kept = [pipeline._window.features[index].tokens]
    for edge, evidence in pipeline._window.evidence.items():
        if max(edge) == index:
            kept += [x for part in (evidence.attention, evidence.motion) if part for x in vars(part).values()]
    anchor = pipeline._aligner._anchors[index]
    return [x for x in (*kept, anchor.frame.depth, anchor.frame.confidence, anchor.static) if x is not None]


def _alive_mb() -> float:
    gc.collect()
    found = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in gc.get_objects() if _is_tensor(x)}
    return sum(found.values()) / 1e6


def _is_tensor(x: object) -> bool:
    # Those that torch traces with have no memory of their own.
    return type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu"
