"""The embedded network: DUSt3R's architecture at a size for CPUs, under Apache-2.0, trained on rendered scenes only."""

from __future__ import annotations

from pathlib import Path

from easi3r_ros.core.backbones.dust3r.backbone import Dust3rBackbone
from easi3r_ros.core.backbones.dust3r.checkpoints import load_network
from easi3r_ros.core.config import BackboneConfig
from easi3r_ros.core.types import Partners

WEIGHTS = Path(__file__).parent / "tiny_weights"


class TinyBackbone(Dust3rBackbone):
    """Comes with the package (docs/tiny.md)."""

    name = "tiny"
    # By time, because it is meant for cameras at whatever rate a machine manages; steps of a few degrees and
    # centimetres, as in its training.
    default_partners = Partners(seconds=(0.0, 0.15, 0.4))

    @classmethod
    def embedded(cls, config: BackboneConfig) -> TinyBackbone:
        """Raises CheckpointError if the package lacks its weights, ConfigError for a device that is not there."""
        network, _ = load_network(WEIGHTS)
        return cls(network, config)
