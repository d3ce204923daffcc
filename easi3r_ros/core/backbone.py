"""The one interface of all backbones, and `build_backbone`, which makes the one that the configuration asks for."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch

from easi3r_ros.core.config import BackboneConfig, ConfigError
from easi3r_ros.core.types import Features, InputSpec, NetworkInput, PairAnswer, PairGeometry, Partners

DEVICES = r"auto|cpu|meta|(cuda|mps|xpu)(:\d+)?"


class Backbone(ABC):
    """Frames in, pointmaps of pairs out. Holds weights and constants, no memory of frames.

    What is expensive about a frame belongs in its `Features`, which the window keeps and drops.
    """

    name: str
    input_spec: InputSpec
    default_partners: Partners  # pair graph that suits this backbone when the user names none
    metric: bool = False  # pointmaps are in metres
    detail: int = 1  # pixels; its pointmaps have no finer structure
    gains_from_warm_up: bool = False  # whether the first frames would wait for something that can be done before them
    has_attention: bool = False  # pairs carry PairAttention (networks), else PairMotion

    @abstractmethod
    def encode(self, image: NetworkInput) -> Features:
        """Everything about one frame that does not depend on its partner."""

    @abstractmethod
    def decode(
        self,
        pairs: Sequence[tuple[Features, Features]],
        masks: Mapping[int, torch.Tensor] | None = None,
    ) -> list[PairGeometry]:
        """Pointmaps, confidence and motion evidence of ordered pairs (a, b).

        masks: frame index -> (h, w) bool, True on moving content; the second pass (eq. 10), in which moving content
            must not influence the static scene. None: the first pass.
        """

    def attend(
        self,
        pairs: Sequence[tuple[Features, Features]],
        masks: Mapping[int, torch.Tensor] | None = None,
        earlier: Sequence[PairAnswer] = (),
        moving: Collection[int] | None = None,
    ) -> Sequence[PairAnswer]:
        """As `decode`, but pointmaps may be left for later: `pointmaps` adds them.

        earlier: answers of the first pass, which stand for pairs that the masks do not change. If they change none,
        the answer is `earlier` itself. moving: the frames of which the masks are not empty; None: the masks are asked.
        """
        if earlier and masks is not None:
            if moving is None:
                moving = {index for index, mask in masks.items() if bool(mask.any())}
            if not moving:
                return earlier
        return self.decode(pairs, masks)

    def pointmaps(self, answers: Sequence[PairAnswer]) -> list[PairGeometry]:
        """The answers of `attend`, complete, in their order; those that were complete are the same objects."""
        return list(answers)

    def partners_after(self, frames: Sequence[Features]) -> Partners:
        """The pair graph that suits the newest of the window's frames, oldest first, if the user names none."""
        return self.default_partners

    def warm_up(self, size: tuple[int, int], pairs: int) -> None:  # noqa: B027 nothing to do is fine
        """Do once what the first frames would have to wait for. size: (h, w) of the network image; pairs: per frame."""

    def decode_fewer_at_once(self) -> int | None:
        """After `decode` ran out of memory: how many pairs it decodes at once from now on; None: no fewer."""
        return None


def build_backbone(config: BackboneConfig) -> Backbone:
    """Raises ConfigError for a combination that cannot work, CheckpointError for a checkpoint that cannot be loaded."""
    if not re.fullmatch(DEVICES, config.device):
        raise ConfigError(f"backbone.device is '{config.device}', must be auto, cpu, cuda, or cuda:0, cuda:1 ...")
    name = config.name if config.name != "auto" else ("dust3r" if config.checkpoint else "classical")
    if name != "dust3r" and config.checkpoint:
        raise ConfigError(f"backbone.name is '{name}', which takes no checkpoint: leave backbone.checkpoint empty")
    if name == "classical":
        from easi3r_ros.core.classical import ClassicalBackbone

        return ClassicalBackbone(config.horizontal_fov)
    if not config.checkpoint:
        raise ConfigError(
            "backbone.name is 'dust3r' but backbone.checkpoint is empty: name a file (see `easi3r weights`)"
        )
    from easi3r_ros.core.dust3r.inference import Dust3rBackbone

    return Dust3rBackbone.from_checkpoint(config)


def suit_threads(backbone: Backbone) -> None:
    """Give PyTorch as many threads as the backbone can use. For programs that run one pipeline: it is process-wide.

    Beside the classical backbone only maps of a few hundred pixels a side are left to PyTorch: a pool of threads costs
    more than it gains, several times more on a busy robot.
    """
    if not backbone.has_attention:
        torch.set_num_threads(1)
