"""All settings and their defaults: one frozen dataclass per stage. ROS parameters and CLI options come from it.

`setting` attaches to a field what a parameter needs: a description, a range or choices, and whether it may change while
the node runs (`live`). `validate` checks values against that and says what is wrong in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any


class ConfigError(ValueError):
    """A setting has a value that cannot work; the message says which, why, and what would."""


def setting(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A dataclass field with the description, limits and liveness of the parameter made from it."""
    metadata = {"description": description, "low": low, "high": high, "choices": choices, "live": live}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class PreprocessConfig:
    long_side: int = setting(
        0, "Long side in pixels of the image the backbone sees; 0: the backbone's own size.", low=0, high=2048
    )


@dataclass(frozen=True)
class BackboneConfig:
    name: str = setting(
        "auto",
        "auto: a network if a checkpoint is given, else classical.",
        choices=("auto", "classical", "dust3r"),
    )
    checkpoint: str = setting("", "DUSt3R-architecture checkpoint: a .pth, .safetensors or hub folder.")
    device: str = setting("auto", "auto: the first CUDA device if there is one, else cpu.")
    dtype: str = setting(
        "auto",
        "Precision of encoder and decoder; auto: bfloat16 on CUDA, float32 on CPU.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    heads: str = setting(
        "auto",
        "Precision of the heads, which make the pointmaps; auto: float32 as published.",
        choices=("auto", "float32", "bfloat16"),
    )
    horizontal_fov: float = setting(
        60.0,
        "Horizontal field of view in degrees assumed by the classical backbone while no camera_info is known.",
        low=10.0,
        high=150.0,
    )
    batch_size: int = setting(
        0,
        "Pairs decoded at once; less from the moment memory runs out. 0: 4 on a CPU, all of a frame's on a GPU.",
        low=0,
        high=64,
    )
    compile: str = setting(
        "off",
        "on: the network by torch.compile, which takes minutes when the node is configured and needs a C++ compiler or "
        "Triton. What cannot be compiled runs as it is, after one warning.",
        choices=("off", "on"),
    )
    cuda_graphs: str = setting(
        "auto",
        "auto: on CUDA the network's work is recorded once and replayed, which saves the time of launching it.",
        choices=("auto", "off"),
    )


@dataclass(frozen=True)
class WindowConfig:
    size: int = setting(10, "Frames kept for pairing with a new one.", low=2, high=64)
    offsets: tuple[int, ...] = setting(
        (), "A new frame is paired, both ways, with the frames this many steps back; empty: the backbone's own choice."
    )
    late: float = setting(
        1.0,
        "Seconds by which an image may be older than the one before it to be left out as late; where it is older than "
        "that, time has started again, and so does the world.",
        low=0.0,
        high=3600.0,
        live=True,
    )


@dataclass(frozen=True)
class MotionConfig:
    cue: str = setting(
        "auto",
        "Where motion evidence comes from. attention: the paper; geometry: flow against the rigid motion; "
        "fused: both; auto: fused for networks, else geometry.",
        choices=("auto", "attention", "geometry", "fused"),
    )
    mode: str = setting(
        "stream",
        "Attention cue. paper: statistics and normalisation exactly as published; "
        "stream: statistics of the pairs known so far.",
        choices=("paper", "stream"),
    )
    scope: str = setting(
        "window",
        "Attention cue: the frames that min-max normalisation and the threshold span.",
        choices=("window", "sequence"),
    )
    clusters: int = setting(64, "Attention cue: k of the k-means over encoder tokens (eq. 13).", low=2, high=512)
    threshold: float = setting(
        0.5,
        "The probability above which a pixel counts as moving; the attention cue alone finds its own.",
        low=0.0,
        high=1.0,
        live=True,
    )
    memory: float = setting(
        0.6,
        "Share of the log odds for motion that a frame inherits along the flow from the one before; 0: none. "
        "Not for the attention cue alone.",
        low=0.0,
        high=0.95,
        live=True,
    )
    refine: str = setting(
        "border",
        "How masks are drawn. border: where the colours of what moves and of what stands part; none: as the flow has "
        "it. Not for the attention cue alone. sam2: border, and SAM 2 follows what moves beside the pipeline; its mask "
        "replaces ours where it is ready in time and agrees (package sam2, motion.sam2_checkpoint).",
        choices=("none", "border", "sam2"),
    )
    sam2_checkpoint: str = setting("", "With refine sam2: the model, a .pt file as Meta distributes it.")
    sam2_config: str = setting(
        "", "With refine sam2: its configuration in the package; empty: known from the checkpoint's name."
    )
    sam2_wait: float = setting(
        0.0,
        "With refine sam2: seconds that a frame waits for its refined mask at most. 0: never, for a live camera; more "
        "for a recording.",
        low=0.0,
        high=600.0,
    )
    passes: int = setting(
        2,
        "2: every frame is decoded twice, the second time with the moving content masked (eq. 10). 1: once, with the "
        "masks of earlier frames carried along the flow: half the work, and masks that follow a frame later.",
        low=1,
        high=2,
        live=True,
    )


@dataclass(frozen=True)
class AlignmentConfig:
    static_weighting: bool = setting(True, "Weight pair points by (1 - mask), so that movers do not drag the camera.")
    min_confidence: float = setting(
        1.2, "Pixels below this confidence take no part in the registration of a frame.", low=1.0, high=20.0, live=True
    )
    iterations: int = setting(10, "Robust re-weighting iterations per frame.", low=1, high=100)


@dataclass(frozen=True)
class CloudConfig:
    movers: str = setting(
        "standing",
        "Depth of moving pixels that were not measured. standing: that of the ground right below; measured: unknown.",
        choices=("standing", "measured"),
        live=True,
    )
    stride: int = setting(2, "Every n-th pixel becomes a point.", low=1, high=32, live=True)
    min_confidence: float = setting(1.2, "Points below this confidence are left out.", low=1.0, high=20.0, live=True)
    max_depth: float = setting(
        0.0, "Points farther than this (world units) are left out; 0: no limit.", low=0.0, live=True
    )


@dataclass(frozen=True)
class ScaleConfig:
    source: str = setting(
        "auto",
        "Where metres come from. odometry: how far the robot drove; depth: a depth image on `depth`; camera_height: "
        "the ground below the camera; checkpoint: a metric network; fixed: scale.metres_per_unit; none: lengths stay "
        "as the backbone gives them; auto: checkpoint for metric networks, else odometry with tf_mode map_to_odom, "
        "else none.",
        choices=("auto", "none", "checkpoint", "odometry", "depth", "camera_height", "fixed"),
    )
    odometry: str = setting(
        "tf",
        "With source odometry. tf: odom_frame -> the camera on /tf; topic: nav_msgs/Odometry on `odom`, with TF from "
        "its child_frame_id to the camera.",
        choices=("tf", "topic"),
    )
    camera_height: float = setting(
        0.0, "With source camera_height: metres from the ground to the camera.", low=0.0, high=1000.0
    )
    metres_per_unit: float = setting(1.0, "With source fixed: metres per unit of the world.", low=1e-6, high=1e6)


@dataclass(frozen=True)
class ObjectConfig:
    min_area: float = setting(
        0.002, "Share of the image below which a group of moving pixels is no object.", low=0.0, high=1.0, live=True
    )
    depth_gap: float = setting(
        0.2,
        "Relative step in depth between neighbouring moving pixels at which one object ends and another begins.",
        low=0.01,
        high=10.0,
        live=True,
    )
    min_hits: int = setting(
        3, "Images that must show an object before it is reported; it has its id from the first.", low=1, high=100
    )
    keep: float = setting(
        1.0, "Seconds for which an object that is out of sight keeps its id.", low=0.0, high=60.0, live=True
    )


@dataclass(frozen=True)
class MapConfig:
    enabled: bool = setting(
        False, "Keep the map of the static world also while nobody subscribes to it, for who comes late and ~/save_map."
    )
    voxel_size: float = setting(
        0.0,
        "Edge of the map's cells, world units; 0: 0.05 m where these are metres, else 1/80 of the first median depth.",
        low=0.0,
        high=100.0,
    )
    max_voxels: int = setting(
        300_000, "Cells that the map holds at most; those seen longest ago make room.", low=1000, high=20_000_000
    )
    period: float = setting(
        1.0, "Seconds between messages on ~/map, by the images' stamps: each repeats it all.", low=0.0, high=3600.0
    )


@dataclass(frozen=True)
class EngineConfig:
    deadline_ms: float = setting(
        0.0,
        "Milliseconds that a frame may take; what takes longer gets a single pass, then fewer partners, then smaller "
        "images, until it does not. 0: as long as it takes.",
        low=0.0,
        high=60_000.0,
        live=True,
    )
    memory_mb: int = setting(
        0,
        "Megabytes of GPU memory (on a CPU: of the process) that may be used, kept in the same way. 0: all there is.",
        low=0,
        high=10_000_000,
        live=True,
    )


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that is done with images; `level` and `scale` after the `Pipeline`, when results go out."""

    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    clouds: CloudConfig = field(default_factory=CloudConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    level: str = setting(
        "camera",
        "How the world gets its z axis up (REP-103) at start. camera: as if the first image was level; imu: gravity "
        "from sensor_msgs/Imu on `imu`; tf: base_frame is upright; none: not at all, its axes are the first camera's "
        "optical ones, z forward and y down.",
        choices=("none", "camera", "imu", "tf"),
    )
    objects: ObjectConfig = field(default_factory=ObjectConfig)
    map: MapConfig = field(default_factory=MapConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Field, Any]]:
    """(dotted name, field, value) of every leaf of a config, depth first: what parameters and options are made from."""
    for item in fields(config):
        value = getattr(config, item.name)
        name = f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from settings(value, f"{name}.")
        else:
            yield name, item, value


def with_settings(config: Any, values: dict[str, Any]) -> Any:
    """A copy of `config` with dotted names replaced, validated. Raises ConfigError for a bad name or value."""
    known = {name for name, _, _ in settings(config)}
    for name in values:
        if name not in known:
            raise ConfigError(f"unknown setting '{name}'; known: {', '.join(sorted(known))}")
    return validate(_replaced(config, values, ""))


def _replaced(config: Any, values: dict[str, Any], prefix: str) -> Any:
    changes = {}
    for item in fields(config):
        name, value = f"{prefix}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            changes[item.name] = _replaced(value, values, f"{name}.")
        elif name in values:
            changes[item.name] = _converted(name, values[name], value)
    return replace(config, **changes)


def _converted(name: str, value: Any, default: Any) -> Any:
    """`value` as the type of `default`; an int is a fine float, nothing else is converted."""
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        wanted, given = type(default).__name__, type(value).__name__
        raise ConfigError(f"'{name}' must be {wanted}, got {given} {value!r}: the wrong type")
    return value


def validate(config: Any) -> Any:
    """Returns `config` if every value respects its limits; raises ConfigError naming the first that does not."""
    for name, item, value in settings(config):
        meta = item.metadata
        if meta.get("choices") and value not in meta["choices"]:
            raise ConfigError(f"'{name}' is {value!r}, must be one of: {', '.join(meta['choices'])}")
        low, high = meta.get("low"), meta.get("high")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise ConfigError(f"'{name}' is {value}, must be in [{low}, {'inf' if high is None else high}]")
        if isinstance(value, tuple) and not all(isinstance(v, int) and v > 0 for v in value):
            raise ConfigError(f"'{name}' is {list(value)}, must hold positive whole numbers")
    return config
