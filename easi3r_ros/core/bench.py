"""What the pipeline costs with a network of generated weights, beside the plain way of computing the same.

Nothing is downloaded and nothing is learned about accuracy: the weights mean nothing, and so that the alignment has
something to align, the pointmaps that the network made are replaced by those of a slanted plane before they go on.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.camera_maps import StopWatch
from easi3r_ros.core.clouds import split_cloud
from easi3r_ros.core.config import (
    BackboneConfig,
    CloudConfig,
    ConfigError,
    MotionConfig,
    PipelineConfig,
    PreprocessConfig,
    WindowConfig,
    validate,
)
from easi3r_ros.core.dust3r import network as network_code
from easi3r_ros.core.dust3r.generated import random_network
from easi3r_ros.core.dust3r.inference import Dust3rBackbone, Pair, device_named
from easi3r_ros.core.dust3r.network import NetworkConfig
from easi3r_ros.core.engine import CrossingCounter, observed, synchronize
from easi3r_ros.core.geometry import intrinsics, unproject
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import (
    Features,
    Frame,
    FrameResult,
    InputSpec,
    NetworkInput,
    PairAnswer,
    PairGeometry,
    TrackingState,
)

SIZES = {
    "full": NetworkConfig(),
    "tiny": NetworkConfig(encoder_width=96, encoder_depth=4, encoder_heads=6, decoder_width=96, head="linear"),
}
PEAK_TFLOPS = {"NVIDIA H100": 790.0, "NVIDIA H200": 790.0}  # dense bfloat16, as large products reach it
PATCH = 16
CUES = ("attention", "geometry", "fused")


@dataclass(frozen=True)
class BenchConfig:
    """What to measure. Raises ConfigError for what cannot be."""

    size: str = "full"
    resolution: tuple[int, int] = (512, 288)  # (width, height) of the network image
    device: str = "auto"
    cue: str = "fused"
    frames: int = 50
    partners: int = 5
    passes: int = 2
    dtype: str = "auto"
    heads: str = "auto"
    compile: str = "off"
    warm: int = 12  # frames before the first that counts: the window is full, caches and memory are there

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ConfigError(f"size is '{self.size}', must be one of: {', '.join(SIZES)}")
        if min(self.resolution) < 2 * PATCH or any(side % PATCH for side in self.resolution):
            raise ConfigError(
                f"resolution is {self.resolution[0]}x{self.resolution[1]}: both sides must be multiples of {PATCH}, "
                f"and at least {2 * PATCH}"
            )
        if self.frames < 1 or self.partners < 1 or self.passes not in (1, 2):
            raise ConfigError("frames and partners must be at least 1, passes 1 or 2")
        if self.cue not in CUES:
            raise ConfigError(f"cue is '{self.cue}', must be one of: {', '.join(CUES)}")

    def pipeline(self, mode: str) -> PipelineConfig:
        """mode: of the attention cue."""
        offsets = tuple(range(1, 2 * self.partners, 2))  # the published video graph
        return validate(
            PipelineConfig(
                preprocess=PreprocessConfig(long_side=max(self.resolution)),
                backbone=self.backbone,
                window=WindowConfig(size=max(2, offsets[-1] + 1), offsets=offsets),
                motion=MotionConfig(cue=self.cue, mode=mode, passes=self.passes),
            )
        )

    @property
    def backbone(self) -> BackboneConfig:
        return validate(
            BackboneConfig(name="dust3r", device=self.device, dtype=self.dtype, heads=self.heads, compile=self.compile)
        )


def measure(config: BenchConfig, plain: bool = False, notify: Callable[[str], None] = lambda _: None) -> dict:
    """Figures of the pipeline, see `figures`, and with `plain` under that name those of the plain way.

    notify: gets a line about what is being done. Raises ConfigError for a device that is not there.
    """
    device = device_named(config.device)
    notify(f"making the weights of the {config.size} network on {device}")
    network = random_network(SIZES[config.size], device)
    notify(f"measuring {config.frames} frames, {config.warm} more to warm up")
    report = setting(config, device) | figures(config, Dust3rBackbone(network, config.backbone), "stream")
    if plain:
        notify("measuring the plain way")
        few = replace(config, frames=max(1, config.frames // 5), warm=max(3, config.warm // 3))
        report["plain"] = figures(few, PlainBackbone(network, config.backbone), "paper")
    return report


def setting(config: BenchConfig, device: torch.device) -> dict:
    """What was measured, and on what."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {
        "size": config.size,
        "resolution": list(config.resolution),
        "device": name,
        "torch": torch.__version__,
        "cue": config.cue,
        "partners": config.partners,
        "passes": config.passes,
    }


def figures(config: BenchConfig, network: Dust3rBackbone, mode: str) -> dict:
    """Rate, latency, time per stage, arithmetic, launches, crossings and memory of one way of computing."""
    backbone = MeteredBackbone(network, config.resolution)
    pipeline = Pipeline(config.pipeline(mode), backbone)
    frames = moving_patterns(config.resolution)
    device = network.device
    _reset_peak(device)
    network.warm_up(config.resolution[::-1], 2 * config.partners)
    first = _timed(lambda: looked_at(pipeline.push(next(frames))))
    for _ in range(config.warm - 1):
        looked_at(pipeline.push(next(frames)))
    latencies, states = [], Counter()
    for _ in range(config.frames):
        start = time.perf_counter()
        result = looked_at(pipeline.push(next(frames)))
        latencies.append((time.perf_counter() - start) * 1e3)
        states[result.state] += 1
    report = _rates(latencies) | {"first_frame_ms": first, "tracking": states[TrackingState.TRACKING] / config.frames}
    report |= _stages(pipeline, backbone, frames, count=min(config.frames, 10))
    with network.without_graphs():  # a replay shows the counters nothing
        report |= _arithmetic(pipeline, frames, device, report["latency_ms"]["p50"])
        report |= _crossings(pipeline, frames, device)
    report["cuda_graphs"] = network.graphs
    report |= _kernels(pipeline, frames, device)
    return report | {"peak_mb": _peak_mb(device)}


def moving_patterns(resolution: tuple[int, int]) -> Iterator[Frame]:
    """Frames of a camera that moves sideways past a textured plane, in front of which two patches go their own way."""
    width, height = resolution
    rng = np.random.default_rng(0)
    wall = _texture(rng, height, 4 * width)
    patches = [_texture(rng, height // 4, width // 6) for _ in range(2)]
    K = intrinsics(FOCAL * width, resolution)
    index = 0
    while True:
        image = np.take(wall, np.arange(width) + STEP * index, axis=1, mode="wrap")
        for number, patch in enumerate(patches):
            row = (1 + number) * height // 3 - patch.shape[0] // 2
            columns = (number * width // 2 + (5 - 8 * number) * index + np.arange(patch.shape[1])) % width
            image[row : row + patch.shape[0], columns] = patch
        yield Frame(index, index * 33_333_333, "camera", np.ascontiguousarray(image), K)
        index += 1


def looked_at(result: FrameResult) -> FrameResult:
    """As a node with subscribers to mask, depth and clouds reads it."""
    _ = result.mask, result.depth, split_cloud(result, CloudConfig())
    return result


FOCAL = 0.9  # of the width
STEP = 2  # pixels per frame that the wall moves
DISTANCE = 2.0  # of the plane


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 with detail at several scales."""
    total = np.zeros((height, width, 3), np.float32)
    for cell, weight in ((4, 1.0), (16, 1.5), (48, 2.0)):
        coarse = torch.from_numpy(rng.random((1, 3, height // cell + 2, width // cell + 2), np.float32))
        fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
        total += weight * fine[0].permute(1, 2, 0).numpy()
    return (255 * np.clip(total / 4.5, 0, 1)).astype(np.uint8)


def spec_for(resolution: tuple[int, int]) -> InputSpec:
    """What leaves images of that (w, h) as they are, square ones too."""
    return InputSpec(max(resolution), PATCH, square=resolution[0] == resolution[1])


class MeteredBackbone(Backbone):
    """A network that measures its own time, and whose pointmaps are replaced by those of a plane."""

    has_attention = True

    def __init__(self, network: Dust3rBackbone, resolution: tuple[int, int] | None = None):
        """resolution: (w, h) of the images to come, which are to stay as they are; None: as the network wants them."""
        self.network = network
        self.name, self.default_partners = "bench", network.default_partners
        self.input_spec = network.input_spec if resolution is None else spec_for(resolution)
        self.milliseconds: float | None = None  # spent in the network; None: not measured, which costs waiting

    @contextmanager
    def _metered(self) -> Iterator[None]:
        if self.milliseconds is None:
            yield
            return
        synchronize(self.network.device)
        start = time.perf_counter()
        yield
        synchronize(self.network.device)
        self.milliseconds += (time.perf_counter() - start) * 1e3

    def encode(self, image: NetworkInput) -> Features:
        with self._metered():
            return self.network.encode(image)

    def attend(
        self,
        pairs: Sequence[Pair],
        masks: Mapping[int, Tensor] | None = None,
        earlier: Sequence[PairAnswer] = (),
        moving: Collection[int] | None = None,
    ) -> Sequence[PairAnswer]:
        with self._metered():
            return self.network.attend(pairs, masks, earlier, moving)

    def decode(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor] | None = None) -> list[PairGeometry]:
        with self._metered():
            pairs = self.network.decode(pairs, masks)
        return [_of_plane(pair) for pair in pairs]

    def pointmaps(self, answers: Sequence[PairAnswer]) -> list[PairGeometry]:
        with self._metered():
            pairs = self.network.pointmaps(answers)
        return [_of_plane(pair) for pair in pairs]


def _of_plane(pair: PairGeometry) -> PairGeometry:
    """The pair as a camera sees it that moves sideways past a slanted plane, `STEP` pixels per frame."""
    height, width = pair.conf_a.shape
    depth = torch.linspace(1.1, 0.9, height, device=pair.conf_a.device)[:, None].expand(height, width) * DISTANCE
    K = torch.from_numpy(intrinsics(FOCAL * width, (width, height)))
    points = unproject(depth, K)
    moved = points.clone()
    moved[..., 0] += (pair.b - pair.a) * STEP * DISTANCE / (FOCAL * width)
    confidence = torch.full_like(pair.conf_a, 5.0)
    return replace(pair, points_a=points, points_b=moved, conf_a=confidence, conf_b=confidence)


class PlainBackbone(Dust3rBackbone):
    """The same network without what makes it fast, as the method is published.

    Both images of a pair are encoded for every pair and pass, pairs come one at a time, and every attention is computed
    as a matrix of tokens by tokens.
    """

    def __init__(self, network: network_code.Dust3rNetwork, config: BackboneConfig):
        super().__init__(network, replace(config, cuda_graphs="off"))

    @torch.no_grad()
    def decode(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor] | None = None) -> list[PairGeometry]:
        answers = []
        with published_attention():
            for pair in pairs:
                fresh = tuple(self.encode(features.input) for features in pair)
                answers += self.pointmaps(self._decode_batch([fresh], masks or {}))
        return answers

    def attend(
        self,
        pairs: Sequence[Pair],
        masks: Mapping[int, Tensor] | None = None,
        earlier: Sequence[PairAnswer] = (),
        moving: Collection[int] | None = None,
    ) -> Sequence[PairAnswer]:
        return self.decode(pairs, masks)


@contextmanager
def published_attention() -> Iterator[None]:
    """While it is entered, networks compute attention and its statistics from matrices of tokens by tokens."""
    names = ("attend", "attend_masked", "mean_key_logits")
    fast = {name: getattr(network_code, name) for name in names}
    plain = dict(zip(names, (_attend, _attend_masked, _mean_key_logits), strict=True))
    try:
        for name, function in plain.items():
            setattr(network_code, name, function)
        yield
    finally:
        for name, function in fast.items():
            setattr(network_code, name, function)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)  # (B, heads, N, N)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (_weights(q, k) @ v).transpose(1, 2).flatten(2)


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: network_code.CrossMask | None) -> Tensor:
    weights = _weights(q, k)
    if mask is not None:
        hidden = ~mask.dynamic_queries[:, None, :, None] & mask.dynamic_keys[:, None, None, :]
        weights = weights.masked_fill(hidden, 0)
    return (weights @ v).transpose(1, 2).flatten(2)


def _mean_key_logits(q: Tensor, k: Tensor) -> Tensor:
    logits = q.float() @ k.float().mT * q.shape[-1] ** -0.5  # (B, heads, N, N)
    return logits.mean(dim=2).transpose(1, 2)


def _timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _rates(latencies: Sequence[float]) -> dict:
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    fps = 1e3 * len(latencies) / sum(latencies)
    return {"fps": fps, "latency_ms": {"p50": float(p50), "p95": float(p95), "p99": float(p99)}}


def _stages(pipeline: Pipeline, backbone: MeteredBackbone, frames: Iterator[Frame], count: int) -> dict:
    """Medians per stage, waiting for the device after each, and how much of a frame the network takes."""
    device = backbone.network.device
    pipeline.stopwatch = lambda: WaitingWatch(device)
    stages: dict[str, list[float]] = {}
    network, rest = [], []
    for _ in range(count):
        backbone.milliseconds = 0.0
        frame = next(frames)
        total = _timed(lambda frame=frame: stages.setdefault("", []).append(looked_at(pipeline.push(frame)).latency_ms))
        network.append(backbone.milliseconds)
        rest.append(total - backbone.milliseconds)
    backbone.milliseconds, pipeline.stopwatch = None, StopWatch
    per_frame = stages[""]
    names = {name: None for frame in per_frame for name in frame}
    return {
        "stage_ms": {name: float(np.median([frame.get(name, 0.0) for frame in per_frame])) for name in names},
        "network_ms": float(np.median(network)),
        "after_network_ms": float(np.median(rest)),
    }


class WaitingWatch(StopWatch):
    """A stop watch that waits for the device, so that work counts for the stage that asked for it."""

    def __init__(self, device: torch.device):
        super().__init__()
        self._device = device

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        with super().__call__(stage):
            yield
            synchronize(self._device)


def _arithmetic(pipeline: Pipeline, frames: Iterator[Frame], device: torch.device, latency_ms: float) -> dict:
    """Counted on one frame. floor_share: of the latency, what its arithmetic takes at the device's measured peak."""
    with FlopCounterMode(display=False) as counter:
        pipeline.push(next(frames))
    tflop = counter.get_total_flops() / 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peak = next((peak for model, peak in PEAK_TFLOPS.items() if name.startswith(model)), None)
    return {"tflop": tflop, "floor_share": tflop / peak / (latency_ms * 1e-3) if peak else None}


def _crossings(pipeline: Pipeline, frames: Iterator[Frame], device: torch.device) -> dict:
    """Of one frame: at how many places the host waited for the device, and all that PyTorch did of that kind."""
    places: list[str] = []
    with observed(lambda place, _: places.append(place)), CrossingCounter(device) as counter:
        looked_at(pipeline.push(next(frames)))
    return {"crossings": len(places), "crossings_at": places, "crossing_operations": dict(counter.by_name)}


def _kernels(pipeline: Pipeline, frames: Iterator[Frame], device: torch.device) -> dict:
    """Of one frame: how many kernels the GPU was given, and the time of the costliest. None on a CPU."""
    if device.type != "cuda":
        return {"kernels": None}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        pipeline.push(next(frames))
        synchronize(device)
    on_device = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [event for event in on_device if not event.name.startswith(("Memcpy", "Memset"))]
    milliseconds: Counter[str] = Counter()
    for event in on_device:
        milliseconds[event.name[:100]] += event.time_range.elapsed_us() / 1e3
    return {
        "kernels": len(kernels),
        "copies": len(on_device) - len(kernels),
        "gpu_busy_ms": sum(milliseconds.values()),
        "kernel_ms": {name: round(value, 3) for name, value in milliseconds.most_common(25)},
    }


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_mb(device: torch.device) -> float:
    """GPU: of tensors on it; CPU: of the process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 / 1e6
