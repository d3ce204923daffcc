"""`tiny` as a backbone of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from easi3r_ros.core.backbones.dust3r.backbone import Dust3rBackbone, Pair
from easi3r_ros.core.backbones.dust3r.checkpoints import CheckpointError, load_network
from easi3r_ros.core.backbones.dust3r.matching import recorded_matching, token_matches
from easi3r_ros.core.backbones.tiny.relative import View, in_first_camera, relative_pose
from easi3r_ros.core.config import BackboneConfig
from easi3r_ros.core.geometry import focal_from_pointmap, intrinsics
from easi3r_ros.core.types import Edge, Features, PairGeometry, Partners

WEIGHTS = Path(__file__).parent / "weights"
MATCHING_LAYERS = 2  # the last ones, which have seen the most


class TinyBackbone(Dust3rBackbone):
    """Comes with the package (docs/tiny.md). Pointmaps are put together from depth and matches, see `relative`."""

    name = "tiny"
    # By time, because it is meant for cameras at whatever rate a machine manages; steps of a few degrees and
    # centimetres, as in its training.
    default_partners = Partners(seconds=(0.0, 0.15, 0.4))

    @classmethod
    def embedded(cls, config: BackboneConfig) -> TinyBackbone:
        """Raises CheckpointError if the package lacks its weights, ConfigError for a device that is not there."""
        if not WEIGHTS.exists():
            raise CheckpointError(
                f"the weights of 'tiny' are not at {WEIGHTS}: the package is incomplete, install it again, or set "
                "backbone.name to classical"
            )
        network, _ = load_network(WEIGHTS)
        return cls(network, config)

    @torch.no_grad()
    def decode(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor] | None = None) -> list[PairGeometry]:
        """As the base class, with its errors; both orders of every pair are decoded, whichever are asked for."""
        unordered = {tuple(sorted((a.index, b.index))): (a, b) for a, b in pairs}
        answers: dict[Edge, PairGeometry] = {}
        for batch in self._batches(list(unordered.values())):
            answers |= self._decode_both(batch, masks or {})
        return [answers[a.index, b.index] for a, b in pairs]

    def _decode_both(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> dict[Edge, PairGeometry]:
        with recorded_matching(self.network) as (from_first, from_second):
            rows = super()._decode_batch([*pairs, *((b, a) for a, b in pairs)], masks)
        towards, back = (
            [layer.float().cpu() for layer in logits[-MATCHING_LAYERS:]] for logits in (from_first, from_second)
        )
        answers = {}
        for i, (a, b) in enumerate(pairs):
            forward, reverse = rows[i], rows[i + len(pairs)]
            K = _intrinsics(a, forward), _intrinsics(b, reverse)
            view_a, view_b = _view(forward, K[0], masks), _view(reverse, K[1], masks)
            there, again = ([layer[i] for layer in logits] for logits in (towards, back))
            answers[a.index, b.index] = self._together(forward, view_a, view_b, (there, again), b.grid)
            answers[b.index, a.index] = self._together(reverse, view_b, view_a, (again, there), a.grid)
        return answers

    def _together(
        self, pair: PairGeometry, a: View, b: View, logits: tuple[list[Tensor], list[Tensor]], grid: tuple[int, int]
    ) -> PairGeometry:
        """The pair with points of both views from their depth and the pose between them."""
        patch = self.network.config.patch_size
        try:
            pose = relative_pose(a, b, token_matches(*logits, grid, patch), patch)
        except ValueError:  # nothing in common: as a pair without parallax, it knows only its own view
            unknown = torch.ones_like(b.confidence)
            return replace(pair, points_a=a.points, points_b=b.points, conf_a=a.confidence, conf_b=unknown)
        points_b = in_first_camera(b, pose)
        return replace(pair, points_a=a.points, points_b=points_b, conf_a=a.confidence, conf_b=b.confidence)


def _intrinsics(features: Features, pair: PairGeometry) -> np.ndarray:
    """(3, 3) the camera's, or where it says nothing, with the focal length that the network believes in."""
    if features.input.K is not None:
        return features.input.K
    height, width = pair.points_a.shape[:2]
    return intrinsics(focal_from_pointmap(pair.points_a, (width / 2, height / 2)), (width, height))


def _view(own: PairGeometry, K: np.ndarray, masks: Mapping[int, Tensor]) -> View:
    """View a of a pair, which is in its own camera."""
    moving = masks.get(own.a)
    static = torch.ones_like(own.conf_a, dtype=torch.bool) if moving is None else ~moving.cpu()
    return View(own.points_a[..., 2].clamp(min=1e-3), own.conf_a, static, K)
