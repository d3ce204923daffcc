"""A DUSt3R-architecture network as a backbone of the pipeline: frames to tokens, pairs to pointmaps and attention."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import BackboneConfig, ConfigError
from easi3r_ros.core.dust3r.checkpoints import load_network
from easi3r_ros.core.dust3r.network import DecodedPairs, Dust3rNetwork
from easi3r_ros.core.types import (
    Features,
    InputSpec,
    NetworkInput,
    PairAttention,
    PairEvidence,
    PairGeometry,
    PairMotionHead,
    Partners,
)

log = logging.getLogger(__name__)

Pair = tuple[Features, Features]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def normalised_image(image: np.ndarray) -> Tensor:
    """(h, w, 3) uint8 RGB -> (3, h, w) float32 in [-1, 1]."""
    return (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def token_mask(mask: Tensor, patch_size: int) -> Tensor:
    """Pixel mask (h, w) bool -> (N,) bool: a token is dynamic if any of its pixels is (METHOD 5)."""
    return F.max_pool2d(mask[None].float(), patch_size).flatten() > 0


class Dust3rBackbone(Backbone):
    """Answers and statistics are float32 on the CPU; tokens stay on the network's device in its precision."""

    name = "dust3r"
    default_partners = Partners(steps=(1, 3, 5, 7, 9))  # the published video graph (METHOD 6)
    has_attention = True

    def __init__(self, network: Dust3rNetwork, config: BackboneConfig, metric: bool = False):
        """network: float32, on any device; it is moved and cast as `config` says, which needs no second copy."""
        self._device = _device(config.device)
        self._dtype = _dtype(config.dtype, self._device)
        self.network = network.to(self._device).cast(self._dtype)
        for head in (network.downstream_head1, network.downstream_head2):
            head.to(memory_format=torch.channels_last)  # convolutions are a seventh faster so
        self._batch_size = config.batch_size
        self._largest_batch = 0  # pairs, of the last call of `decode`
        self._patch = network.config.patch_size
        self.input_spec = InputSpec(max(network.config.image_size), self._patch, network.config.square)
        self.metric = metric
        self.has_motion_head = network.config.motion_head

    @classmethod
    def from_checkpoint(cls, config: BackboneConfig) -> Dust3rBackbone:
        """Raises CheckpointError, and ConfigError for a device that is not there."""
        _device(config.device)  # fails before a file of gigabytes is read
        network, checkpoint = load_network(config.checkpoint)
        backbone = cls(network, config, checkpoint.metric)
        log.info("%s: %s, %s on %s", checkpoint.path.name, network.config, backbone._dtype, backbone._device)
        return backbone

    @torch.no_grad()
    def encode(self, image: NetworkInput) -> Features:
        """Raises ValueError for an image that does not consist of whole patches, FloatingPointError on overflow."""
        height, width = image.image.shape[:2]
        if height % self._patch or width % self._patch:
            raise ValueError(f"a {width} x {height} image does not consist of patches of {self._patch} pixels")
        tokens = self.network.encode(normalised_image(image.image)[None].to(self._device))[0]
        if not tokens.isfinite().all():
            raise FloatingPointError(
                f"the network overflows in {self._dtype}: set backbone.dtype to bfloat16 or float32"
            )
        return Features(image, tokens, (height // self._patch, width // self._patch))

    @torch.no_grad()
    def decode(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor] | None = None) -> list[PairGeometry]:
        """As the base class. As published, a pair is masked only if both of its frames have a mask.

        Raises ValueError if the token grids of the frames differ or a mask has another size than its frame.
        """
        return [answer for batch in self._batches(pairs) for answer in self._decode_batch(batch, masks or {})]

    def decode_fewer_at_once(self) -> int | None:
        """As the base class: half of what the last call tried, which is what its peak of memory depends on."""
        if self._largest_batch < 2:
            return None
        self._batch_size = self._largest_batch // 2
        return self._batch_size

    def _batches(self, pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
        if len({features.grid for pair in pairs for features in pair}) > 1:
            raise ValueError("frames of different sizes cannot be paired")
        self._largest_batch = min(self._batch_size, len(pairs))
        for start in range(0, len(pairs), self._batch_size):
            yield pairs[start : start + self._batch_size]

    def _decode_batch(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> list[PairGeometry]:
        tokens_a, tokens_b = (torch.stack([pair[view].tokens for pair in pairs]) for view in (0, 1))  # (B, N, C)
        decoded = self.network.decode(tokens_a, tokens_b, pairs[0][0].grid, self._token_masks(pairs, masks))
        points_a, points_b, conf_a, conf_b = (answer.cpu() for answer in self.network.pointmaps(decoded))
        source, reference = decoded.source.cpu(), decoded.reference.cpu()
        heads = self._motion_heads(decoded) if self.has_motion_head else [None] * len(pairs)
        return [
            PairGeometry(
                a=a.index,
                b=b.index,
                points_a=points_a[i],
                points_b=points_b[i],
                conf_a=conf_a[i],
                conf_b=conf_b[i],
                # A copy: evidence outlives the batch, and a view would keep all of it alive.
                evidence=PairEvidence(attention=PairAttention(source[i].clone(), reference[i].clone()), head=heads[i]),
            )
            for i, (a, b) in enumerate(pairs)
        ]

    def _motion_heads(self, decoded: DecodedPairs) -> list[PairMotionHead]:
        logits_a, logits_b = (logits.cpu() for logits in self.network.motion(decoded))
        return [PairMotionHead(a.clone(), b.clone()) for a, b in zip(logits_a, logits_b, strict=True)]

    def _token_masks(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Masks (B, N) bool of the views a and b; all static for pairs that stay unmasked."""
        masked = [a.index in masks and b.index in masks for a, b in pairs]
        if not any(masked):
            return None
        views = []
        for view in (0, 1):
            rows = [
                self._token_mask(pair[view], masks) if use else self._all_static(pair[view])
                for pair, use in zip(pairs, masked, strict=True)
            ]
            views.append(torch.stack(rows).to(self._device))
        return views[0], views[1]

    def _token_mask(self, features: Features, masks: Mapping[int, Tensor]) -> Tensor:
        mask = masks[features.index]
        if tuple(mask.shape) != features.input.image.shape[:2]:
            raise ValueError(
                f"mask of frame {features.index} is {tuple(mask.shape)}, not {features.input.image.shape[:2]}"
            )
        return token_mask(mask, self._patch)

    @staticmethod
    def _all_static(features: Features) -> Tensor:
        return torch.zeros(len(features.tokens), dtype=torch.bool)


def _device(name: str) -> torch.device:
    """Raises ConfigError for a device that does not exist here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"backbone.device '{name}' is not available: use 'auto', 'cpu' or 'cuda'") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]
