"""A network that is simulated: pointmaps with errors and attention as Easi3R describes it, from a rendered clip."""

from __future__ import annotations

import numpy as np
import torch
from easi3r_lab.synthetic import Clip
from easi3r_lab.synthetic.true_pairs import PairNoise, simulate_pair

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.types import (
    Features,
    Frame,
    InputSpec,
    PairAttention,
    PairEvidence,
    PairGeometry,
    Partners,
)

PATCH = 16
CHANNELS = 4


class SimulatedNetwork(Backbone):
    """Answers pairs of frames of a clip.

    noise: of pointmaps. attention: how far movers stand out of it; 0: not at all.
    """

    name, default_partners = "simulated", Partners(steps=(1, 3, 5))
    has_attention = True

    def __init__(self, clip: Clip, noise: float = 0.02, attention: float = 1.0):
        self.clip, self.noise, self.attention = clip, PairNoise(relative=noise), attention
        self.input_spec = InputSpec(clip.size[0], PATCH)
        self.rng = np.random.default_rng(0)

    def encode(self, image):
        height, width = (side // PATCH for side in image.image.shape[:2])
        cells = image.image.reshape(height, PATCH, width, PATCH, 3).mean((1, 3)) / 255  # (gh, gw, 3)
        return Features(image, torch.from_numpy(cells.reshape(-1, 3)).float(), (height, width))

    def decode(self, pairs, masks=None):
        return [self._answer(a, b) for a, b in pairs]

    def _answer(self, a, b):
        pair = simulate_pair(self.clip, a.index, b.index, self.rng, self.noise)
        masks = [self.clip.masks[features.index] for features in (a, b)]
        attention = PairAttention(source=self._source(masks[1]), reference=self._reference(masks[0]))
        fields = (pair.points_a, pair.points_b, pair.conf_a, pair.conf_b)
        return PairGeometry(a.index, b.index, *fields, PairEvidence(attention=attention))

    def _source(self, mask):
        """Movers are ignored, more in some pairs than in others (eq. 9: low mean, high deviation)."""
        share = self.attention * self._tokens(mask)
        return (1 - share + (0.05 + 0.3 * share) * self._normal(share)).float()

    def _reference(self, mask):
        share = self.attention * self._tokens(mask)
        return (share + (0.1 - 0.05 * share) * self._normal(share)).float()

    def _tokens(self, mask):
        """(gh, gw, 1) share of each token that moves."""
        height, width = (side // PATCH for side in mask.shape)
        return torch.from_numpy(mask.reshape(height, PATCH, width, PATCH).mean((1, 3)))[..., None]

    def _normal(self, share):
        return torch.from_numpy(self.rng.standard_normal((*share.shape[:2], CHANNELS)))


def frame_of(clip: Clip, index: int, known_camera: bool = True) -> Frame:
    return Frame(index, clip.stamp_ns(index), "camera", clip.images[index], clip.K if known_camera else None)
