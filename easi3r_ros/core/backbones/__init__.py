"""Backbones behind one interface; `build_backbone` makes the one that the configuration asks for."""

from __future__ import annotations

import torch

from easi3r_ros.core.backbones.base import Backbone
from easi3r_ros.core.config import BackboneConfig, ConfigError

__all__ = ["Backbone", "build_backbone", "suit_threads"]


def build_backbone(config: BackboneConfig) -> Backbone:
    """Raises ConfigError for a combination that cannot work, CheckpointError for a checkpoint that cannot be loaded."""
    name = config.name if config.name != "auto" else ("dust3r" if config.checkpoint else "classical")
    if name != "dust3r" and config.checkpoint:
        raise ConfigError(f"backbone.name is '{name}', which takes no checkpoint: leave backbone.checkpoint empty")
    if name == "classical":
        from easi3r_ros.core.backbones.classical import ClassicalBackbone

        return ClassicalBackbone(config.horizontal_fov)
    if name == "tiny":
        from easi3r_ros.core.backbones.tiny import TinyBackbone

        return TinyBackbone.embedded(config)
    if not config.checkpoint:
        raise ConfigError(
            "backbone.name is 'dust3r' but backbone.checkpoint is empty: name a file (see `easi3r weights`)"
        )
    from easi3r_ros.core.backbones.dust3r.backbone import Dust3rBackbone

    return Dust3rBackbone.from_checkpoint(config)


def suit_threads(backbone: Backbone) -> None:
    """Give PyTorch as many threads as the backbone can use. For programs that run one pipeline: it is process-wide.

    Beside the classical backbone only maps of a few hundred pixels a side are left to PyTorch: a pool of threads costs
    more than it gains, several times more on a busy robot.
    """
    if not backbone.has_attention:
        torch.set_num_threads(1)
