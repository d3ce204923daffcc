"""How `tiny` is trained: its size, its schedule and the weights of its losses. All of it is kept beside the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from easi3r_ros.core.dust3r.network import NetworkConfig

EVALUATION_SEED = 1_000_000_000  # training draws its scenes from seeds below, evaluation from here on
TINY = NetworkConfig(
    encoder_width=128,
    encoder_depth=4,
    encoder_heads=4,
    decoder_width=128,
    decoder_depth=4,
    decoder_heads=4,
    head="linear",
    image_size=(96, 72),
    patch_size=8,
)


class PlanError(ValueError):
    """The plan cannot be carried out; the message says why."""


@dataclass(frozen=True)
class Stage:
    """A part of the training at one image size."""

    until: float  # share of the planned time at which it ends
    long_side: int  # pixels
    batch: int  # unordered pairs per step


@dataclass(frozen=True)
class TrainingPlan:
    """The schedule runs by time, since that is what is given: constant learning rate, then down to zero.

    Raises PlanError for a plan that cannot work.
    """

    minutes: float = 120.0
    seed: int = 0
    network: NetworkConfig = TINY
    stages: tuple[Stage, ...] = (Stage(0.35, 64, 32), Stage(1.0, 96, 16))
    learning_rate: float = 1.5e-3  # of everything but the matrices of the blocks
    matrix_rate: float = 5e-3  # of those, by Muon: its steps have 0.2 of AdamW's size at the same rate
    warmup_steps: int = 100
    decay_share: float = 0.67  # of the time, at the end
    weight_decay: float = 0.03
    clip_norm: float = 1.0
    point_weight: float = 3.0  # of the pointmaps' error beside what their confidence costs
    matching_weight: float = 0.6
    scenes_per_shard: int = 16
    views_per_scene: int = 6
    rounds_per_shard: int = 3  # times that a shard's views are put together in pairs
    mixed_batches: int = 54  # batches from which the next one is drawn: those of three shards

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise PlanError(f"there must be some time to train: minutes is {self.minutes}")
        if self.mixed_batches < 1:
            raise PlanError(f"batches must be drawn from at least one: mixed_batches is {self.mixed_batches}")
        ends = [stage.until for stage in self.stages]
        if ends != sorted(ends) or not ends or ends[-1] != 1.0:
            raise PlanError(f"stages must end in rising order, the last at 1.0: {ends}")
        if any(stage.long_side % (4 * self.network.patch_size) for stage in self.stages):
            raise PlanError(f"long sides must be multiples of {4 * self.network.patch_size} pixels")

    def stage_at(self, progress: float) -> Stage:
        return next((stage for stage in self.stages if progress < stage.until), self.stages[-1])

    def rate_share(self, progress: float, step: int) -> float:
        """Share of the learning rates to use after `progress` (0..1) of the time and `step` steps."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return warm * min(1.0, max(0.0, 1.0 - progress) / self.decay_share)


@dataclass
class Progress:
    """Where a training stands; what is saved and resumed beside the tensors."""

    step: int = 0
    pairs: int = 0  # ordered pairs seen
    seconds: float = 0.0
    shard: int = 0  # next shard of scenes
    history: list[dict[str, float]] = field(default_factory=list)  # what was logged
