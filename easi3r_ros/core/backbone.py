"""The one interface of all backbones, and `build_backbone`, which makes the one that the configuration asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

from easi3r_ros.core.config import BackboneConfig, ConfigError
from easi3r_ros.core.types import Features, InputSpec, NetworkInput, PairGeometry, Partners


class Backbone(ABC):
    """Frames in, pointmaps of pairs out. Holds weights and constants, no memory of frames.

    What is expensive about a frame belongs in its `Features`, which the window keeps and drops.
    """

    name: str
    input_spec: InputSpec
    default_partners: Partners  # pair graph that suits this backbone when the user names none
    metric: bool = False  # pointmaps are in metres
    detail: int = 1  # pixels; its pointmaps have no finer structure
    has_attention: bool = False  # pairs carry PairAttention (networks), else PairMotion
    has_motion_head: bool = False  # pairs carry PairMotionHead

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

    def decode_fewer_at_once(self) -> int | None:
        """After `decode` ran out of memory: how many pairs it decodes at once from now on; None: no fewer."""
        return None


def build_backbone(config: BackboneConfig) -> Backbone:
    """Raises ConfigError for a combination that cannot work, CheckpointError for a checkpoint that cannot be loaded."""
    name = config.name if config.name != "auto" else ("dust3r" if config.checkpoint else "classical")
    if name != "dust3r" and config.checkpoint:
        raise ConfigError(f"backbone.name is '{name}', which takes no checkpoint: leave backbone.checkpoint empty")
    if name == "classical":
        from easi3r_ros.core.classical import ClassicalBackbone

        return ClassicalBackbone(config.horizontal_fov)
    if name == "tiny":
        from easi3r_lab.tiny import TinyBackbone

        return TinyBackbone.embedded(config)
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
