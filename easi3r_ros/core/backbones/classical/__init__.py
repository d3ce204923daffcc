"""Optical flow and two-view geometry: the backbone that needs no weights."""

from easi3r_ros.core.backbones.classical.backbone import ClassicalBackbone

__all__ = ["ClassicalBackbone"]
