"""The embedded network: DUSt3R's architecture at a size for CPUs, under Apache-2.0, trained on rendered scenes only."""

from easi3r_lab.tiny.backbone import TinyBackbone

__all__ = ["TinyBackbone"]
