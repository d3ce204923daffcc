"""`tiny` as a backbone of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from easi3r_lab.tiny.mirror import unmirrored_logits, unmirrored_pair
from easi3r_lab.tiny.relative import View, depth_of_both, in_first_camera, mean_depth, relative_pose
from easi3r_lab.training.attention_matches import TokenMatches, recorded_matching, token_matches
from easi3r_ros.core.config import BackboneConfig
from easi3r_ros.core.dust3r.checkpoints import CheckpointError, load_network
from easi3r_ros.core.dust3r.inference import Dust3rBackbone, Pair
from easi3r_ros.core.dust3r.network import Dust3rNetwork
from easi3r_ros.core.geometry import focal_from_pointmap, intrinsics
from easi3r_ros.core.types import Edge, Features, NetworkInput, PairGeometry, Partners

WEIGHTS = Path(__file__).parent / "weights"
MATCHING_LAYERS = 2  # the last ones, which have seen the most


@dataclass(frozen=True)
class MirroredFeatures(Features):
    """Features of a frame, and of the same frame with left and right exchanged."""

    mirrored: Features | None  # None: backbone.mirror is off


@dataclass(frozen=True)
class Answers:
    """What the network says about B pairs."""

    pairs: list[PairGeometry]
    towards: list[Tensor]  # matching logits of the last layers, (B, N of a, N of b) each
    back: list[Tensor]  # (B, N of b, N of a)


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

    def __init__(self, network: Dust3rNetwork, config: BackboneConfig, metric: bool = False):
        """As the base class."""
        super().__init__(network, config, metric)
        self._mirror = config.mirror

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

    def encode(self, image: NetworkInput) -> MirroredFeatures:
        """As the base class, with its errors."""
        plain = super().encode(image)
        mirrored = None
        if self._mirror:
            mirrored = super().encode(replace(image, image=np.ascontiguousarray(image.image[:, ::-1])))
        return MirroredFeatures(plain.input, plain.tokens, plain.grid, mirrored)

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
        ordered = [*pairs, *((b, a) for a, b in pairs)]
        looks = [self._answers(ordered, masks)]
        if self._mirror:
            looks.append(self._answers_in_a_mirror(ordered, masks))
        for i, (a, b) in enumerate(pairs):
            j = i + len(pairs)  # the same pair the other way round
            towards = [layer[i] for look in looks for layer in look.towards]
            back = [layer[i] for look in looks for layer in look.back]
            yield SeenPair(
                (looks[0].pairs[i], looks[0].pairs[j]),
                (
                    _view(a, [(look.pairs[i], look.pairs[j]) for look in looks], masks),
                    _view(b, [(look.pairs[j], look.pairs[i]) for look in looks], masks),
                ),
                tuple(token_matches(*logits, a.grid, self._patch) for logits in ((towards, back), (back, towards))),
            )

    def _answers(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> Answers:
        with recorded_matching(self.network) as towers:
            answers = self._decode_batch(pairs, masks)
        return Answers(answers, *([layer.float().cpu() for layer in logits[-MATCHING_LAYERS:]] for logits in towers))

    def _answers_in_a_mirror(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> Answers:
        """The same, as the network says it about mirrored frames: its errors are others."""
        mirrored_masks = {index: mask.flip(1) for index, mask in masks.items()}
        seen = self._answers([(a.mirrored, b.mirrored) for a, b in pairs], mirrored_masks)
        columns = pairs[0][0].grid[1]
        matching = ([unmirrored_logits(layer, columns) for layer in tower] for tower in (seen.towards, seen.back))
        return Answers([unmirrored_pair(pair) for pair in seen.pairs], *matching)

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


def _view(features: Features, orders: Sequence[Sequence[PairGeometry]], masks: Mapping[int, Tensor]) -> View:
    """One frame in its own camera. orders: of every look, the pair in which it is view a and that in which it is b."""
    own = orders[0][0]
    K = _intrinsics(features, own)
    moving = masks.get(own.a)
    static = torch.ones_like(own.conf_a, dtype=torch.bool) if moving is None else ~moving.cpu()
    return View(mean_depth([depth_of_both(*order) for order in orders]), own.conf_a, static, K)
