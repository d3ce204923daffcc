"""The one interface of all backbones: encode a frame once, decode pairs of frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

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
