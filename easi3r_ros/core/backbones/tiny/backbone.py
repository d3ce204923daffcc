"""`tiny` as a backbone of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from easi3r_ros.core.backbones.dust3r.backbone import Dust3rBackbone, Pair
from easi3r_ros.core.backbones.dust3r.checkpoints import CheckpointError, load_network
from easi3r_ros.core.backbones.dust3r.matching import TokenMatches, recorded_matching, token_matches
from easi3r_ros.core.backbones.tiny.relative import View, depth_of_both, in_first_camera, relative_pose
from easi3r_ros.core.config import BackboneConfig
from easi3r_ros.core.geometry import focal_from_pointmap, intrinsics
from easi3r_ros.core.types import Edge, Features, PairGeometry, Partners

WEIGHTS = Path(__file__).parent / "weights"
MATCHING_LAYERS = 2  # the last ones, which have seen the most


@dataclass(frozen=True)
class SeenPair:
    """A pair in both orders; `answers`, `views` and `matches` of the first order come first."""

    answers: tuple[PairGeometry, PairGeometry]  # of the network, as published
    views: tuple[View, View]
    matches: tuple[TokenMatches, TokenMatches]

    def reversed(self) -> SeenPair:
        return SeenPair(self.answers[::-1], self.views[::-1], self.matches[::-1])


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
            for seen in self._look(batch, masks or {}):
                for one in (seen, seen.reversed()):
                    answers[one.answers[0].edge] = self._together(one)
        return [answers[a.index, b.index] for a, b in pairs]

    def _look(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> Iterator[SeenPair]:
        """What the network says about pairs in both orders, not yet brought together."""
        with recorded_matching(self.network) as (from_first, from_second):
            rows = super()._decode_batch([*pairs, *((b, a) for a, b in pairs)], masks)
        towards, back = (
            [layer.float().cpu() for layer in logits[-MATCHING_LAYERS:]] for logits in (from_first, from_second)
        )
        for i, (a, b) in enumerate(pairs):
            forward, reverse = rows[i], rows[i + len(pairs)]
            there, again = ([layer[i] for layer in logits] for logits in (towards, back))
            yield SeenPair(
                (forward, reverse),
                (_view(a, forward, reverse, masks), _view(b, reverse, forward, masks)),
                tuple(token_matches(*logits, a.grid, self._patch) for logits in ((there, again), (again, there))),
            )

    def _together(self, seen: SeenPair) -> PairGeometry:
        """The first order's pair with points of both views from their depth and the pose between them."""
        pair, (a, b) = seen.answers[0], seen.views
        try:
            pose = relative_pose(a, b, seen.matches[0], self._patch)
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


def _view(features: Features, own: PairGeometry, other: PairGeometry, masks: Mapping[int, Tensor]) -> View:
    """One frame in its own camera. own: the order in which it is view a; other: that in which it is view b."""
    K = _intrinsics(features, own)
    moving = masks.get(own.a)
    static = torch.ones_like(own.conf_a, dtype=torch.bool) if moving is None else ~moving.cpu()
    return View(depth_of_both(own, other), own.conf_a, static, K)
