"""A DUSt3R-architecture network as a backbone of the pipeline: frames to tokens, pairs to pointmaps and attention."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.compiled import CompiledCalls
from easi3r_ros.core.config import BackboneConfig, ConfigError
from easi3r_ros.core.cuda_graphs import RecordedCalls
from easi3r_ros.core.dust3r.checkpoints import load_network
from easi3r_ros.core.dust3r.network import DecodedPairs, Dust3rNetwork, changed_by_mask
from easi3r_ros.core.engine import fetch, upload
from easi3r_ros.core.types import (
    DecodedPair,
    Features,
    Frame,
    ImageTransform,
    InputSpec,
    NetworkInput,
    PairAnswer,
    PairAttention,
    PairEvidence,
    PairGeometry,
    Partners,
)

log = logging.getLogger(__name__)

Pair = tuple[Features, Features]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def normalised_image(image: np.ndarray | Tensor) -> Tensor:
    """(..., h, w, 3) uint8 RGB -> (..., 3, h, w) float32 in [-1, 1], on the device that the image is on."""
    return torch.as_tensor(image).movedim(-1, -3).float().mul_(2 / 255).sub_(1)


def token_mask(mask: Tensor, patch_size: int) -> Tensor:
    """Pixel mask (h, w) bool -> (N,) bool: a token is dynamic if any of its pixels is (METHOD 5)."""
    return token_masks(mask[None], patch_size)[0]


def token_masks(masks: Tensor, patch_size: int) -> Tensor:
    """As `token_mask`, (F, h, w) -> (F, N)."""
    rows, columns = masks.shape[1] // patch_size, masks.shape[2] // patch_size
    return masks.view(-1, rows, patch_size, columns, patch_size).any(dim=4).any(dim=2).flatten(1)


@dataclass(frozen=True)
class DecodedRow:
    """Where a pair's decoder tokens are."""

    batch: DecodedPairs
    row: int


# Pairs at once where the user names no number. CPU: what a batch saves is less than what its memory costs.
CPU_BATCH, GPU_BATCH = 4, 32
CPU_HEADS, GPU_HEADS = 1, 5  # pairs whose pointmaps are computed at once


class Dust3rBackbone(Backbone):
    """Answers and statistics are float32. All tensors stay on the network's device."""

    name = "dust3r"
    default_partners = Partners(steps=(1, 3, 5, 7, 9))  # the published video graph (METHOD 6)
    has_attention = True

    def __init__(self, network: Dust3rNetwork, config: BackboneConfig, metric: bool = False):
        """network: float32, on any device; it is moved and cast as `config` says, which needs no second copy."""
        self._device = device_named(config.device)
        self._dtype = _dtype(config.dtype, self._device)
        on_gpu = self._device.type == "cuda"
        heads = DTYPES["float32" if config.heads == "auto" else config.heads]
        self.network = network.to(self._device).cast(self._dtype, heads)
        for head in (network.downstream_head1, network.downstream_head2):
            head.to(memory_format=torch.channels_last)  # convolutions are a seventh faster so
        self._batch_size = config.batch_size or (GPU_BATCH if on_gpu else CPU_BATCH)
        self._heads_at_once = min(self._batch_size, GPU_HEADS if on_gpu else CPU_HEADS)
        self.gains_from_warm_up = on_gpu or config.compile == "on"
        self._compiled = CompiledCalls(config.compile == "on")
        self._calls = RecordedCalls(self._device, on_gpu and config.cuda_graphs == "auto")
        self._largest_batch = 0  # pairs, of the last call that decoded or read pointmaps
        self._patch = network.config.patch_size
        self.input_spec = InputSpec(max(network.config.image_size), self._patch, network.config.square)
        self.metric = metric

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def graphs(self) -> int:
        """How many CUDA graphs are in use."""
        return len(self._calls)

    def without_graphs(self) -> AbstractContextManager:
        """While it is entered, the network runs call by call, as counters of operations need it."""
        return self._calls.suspended()

    @classmethod
    def from_checkpoint(cls, config: BackboneConfig) -> Dust3rBackbone:
        """Raises CheckpointError, and ConfigError for a device that is not there."""
        device_named(config.device)  # fails before a file of gigabytes is read
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
        pixels = upload(image.image, self._device)[None]
        tokens = self._calls.call(("encode", height, width), self._encoded, pixels)[0][0]
        # Asking makes the host wait for the device; the other precisions reach as far as float32.
        if self._dtype == torch.float16 and not bool(fetch(tokens.isfinite().all(), "overflow")):
            raise FloatingPointError(
                f"the network overflows in {self._dtype}: set backbone.dtype to bfloat16 or float32"
            )
        return Features(image, tokens, (height // self._patch, width // self._patch))

    def decode(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor] | None = None) -> list[PairGeometry]:
        """As the base class. As published, a pair is masked only if both of its frames have a mask.

        Raises ValueError if the token grids of the frames differ or a mask has another size than its frame.
        """
        # Batch by batch, so that the tokens of one are gone before the next.
        return [
            answer
            for batch in self._batches(pairs)
            for answer in self.pointmaps(self._decode_batch(batch, masks or {}))
        ]

    @torch.no_grad()
    def attend(
        self,
        pairs: Sequence[Pair],
        masks: Mapping[int, Tensor] | None = None,
        earlier: Sequence[PairAnswer] = (),
        moving: Collection[int] | None = None,
    ) -> Sequence[PairAnswer]:
        """As the base class, with the errors of `decode`."""
        if masks is None or not earlier:
            return [answer for batch in self._batches(pairs) for answer in self._decode_batch(batch, masks or {})]
        known = {answer.edge: answer for answer in earlier}
        changed = self._changed(pairs, masks, moving)
        new = [pair for pair, differs in zip(pairs, changed, strict=True) if differs]
        new += [pair for pair in pairs if (pair[0].index, pair[1].index) not in known and pair not in new]
        if not new:
            return earlier
        known |= {answer.edge: answer for answer in self.attend(new, masks)}
        return [known[a.index, b.index] for a, b in pairs]

    @torch.no_grad()
    def pointmaps(self, answers: Sequence[PairAnswer]) -> list[PairGeometry]:
        """As the base class."""
        pending = [answer for answer in answers if isinstance(answer, DecodedPair)]
        if not pending:
            return list(answers)
        self._largest_batch = min(len(pending), self._heads_at_once)
        decoded = _gathered([answer.decoded for answer in pending])
        points_a, points_b, conf_a, conf_b = self.network.pointmaps(decoded, self._heads_at_once, self._regressed)
        complete = {
            answer.edge: PairGeometry(
                answer.a, answer.b, points_a[i], points_b[i], conf_a[i], conf_b[i], answer.evidence
            )
            for i, answer in enumerate(pending)
        }
        return [complete.get(answer.edge, answer) for answer in answers]

    @torch.no_grad()
    def warm_up(self, size: tuple[int, int], pairs: int) -> None:
        """As the base class: what a GPU is asked for in every frame is recorded here, and nowhere else.

        Raises FloatingPointError if the network's answers are no numbers.
        """
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        transform = ImageTransform(size[::-1], size[::-1], (0, 0), size[::-1])
        pixels = upload(image, self._device)[None]
        grid = size[0] // self._patch, size[1] // self._patch
        self._calls.record(("encode", *size), self._encoded, (pixels,), self._kept(grid))
        frames = [self.encode(NetworkInput(Frame(index, index, "", image), image, None, transform)) for index in (0, 1)]
        given, mask = [tuple(frames)] * pairs, torch.zeros(size, dtype=torch.bool, device=self._device)
        mask[: size[0] // 2] = True
        masks = {0: mask, 1: mask}
        self._record_decoding(given, masks)
        self.attend(given)
        answer = self.pointmaps(self.attend(given, masks))[0]
        if not (answer.points_a.isfinite().all() and answer.evidence.attention.source.isfinite().all()):
            raise FloatingPointError(
                f"the network's answers are no numbers in {self._dtype}: set backbone.dtype to float32; if that does "
                "not help, the checkpoint is broken"
            )

    def _record_decoding(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> None:
        """Decoding of as many pairs, with masks also of half as many, and the heads."""
        count = min(len(pairs), self._batch_size)
        inputs = self._decoder_inputs(pairs[:count], {})
        grid = pairs[0][0].grid
        self._record_decoder(grid, inputs)
        for rows in (count, (count + 1) // 2):  # the second pass decodes only the pairs that it changes
            self._record_decoder(grid, self._decoder_inputs(pairs[:rows], masks))
        decoded = self._pairs_of(grid, inputs, self._decoded(grid, *inputs))
        levels = [tokens[layer] for tokens in (decoded.tokens_a, decoded.tokens_b) for layer in self._head_layers]
        rows = count if self.network.config.head == "linear" else min(count, self._heads_at_once)
        self._calls.record(("heads", grid), partial(self._made_points, grid), [level[:rows] for level in levels])

    def _record_decoder(self, grid: tuple[int, int], inputs: Sequence[Tensor]) -> None:
        key = ("decode", grid, len(inputs) > 2)
        self._calls.record(key, partial(self._decoded, grid), inputs, self._kept(grid))

    def _kept(self, grid: tuple[int, int]) -> object:
        return self.network.rotary_tables(grid, torch.empty(0, dtype=self._dtype, device=self._device))

    def decode_fewer_at_once(self) -> int | None:
        """As the base class: half of what the last call tried, which is what its peak of memory depends on."""
        held = len(self._calls)
        self._calls.clear()  # their memory may be all that is missing, and their batches have the wrong size now
        if self._largest_batch < 2:
            return 1 if held else None
        self._batch_size = self._largest_batch // 2
        self._heads_at_once = min(self._heads_at_once, self._batch_size)
        return self._batch_size

    def _batches(self, pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
        if len({features.grid for pair in pairs for features in pair}) > 1:
            raise ValueError("frames of different sizes cannot be paired")
        self._largest_batch = min(self._batch_size, len(pairs))
        for start in range(0, len(pairs), self._batch_size):
            yield pairs[start : start + self._batch_size]

    @torch.no_grad()
    def _decode_batch(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> list[DecodedPair]:
        grid, inputs = pairs[0][0].grid, self._decoder_inputs(pairs, masks)
        key = ("decode", grid, len(inputs) > 2)
        decoded = self._pairs_of(grid, inputs, self._calls.call(key, partial(self._decoded, grid), *inputs))
        return [
            DecodedPair(
                a=a.index,
                b=b.index,
                # A copy: evidence outlives the batch, and a view would keep all of it alive.
                evidence=PairEvidence(PairAttention(decoded.source[i].clone(), decoded.reference[i].clone())),
                decoded=DecodedRow(decoded, i),
            )
            for i, (a, b) in enumerate(pairs)
        ]

    # -- what can be recorded: tensors in, tensors out ---------------------------------------------------------------

    @property
    def _head_layers(self) -> tuple[int, ...]:
        return self.network.config.head_layers

    def _encoded(self, pixels: Tensor) -> tuple[Tensor]:
        """(B, h, w, 3) uint8 -> (B, N, C)"""
        return (self._compiled.call("encode", self.network.encode, normalised_image(pixels)),)

    def _decoder_inputs(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> list[Tensor]:
        """Tokens (B, N, C) of a and of b, and if there are masks the token masks (B, N) of both."""
        tokens = [torch.stack([pair[view].tokens for pair in pairs]) for view in (0, 1)]
        return [*tokens, *(self._token_masks(pairs, masks) or ())]

    def _decoded(self, grid: tuple[int, int], tokens_a: Tensor, tokens_b: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        """The parts of DecodedPairs that are not the inputs, one after the other."""
        decoded = self._compiled.call("decode", self.network.decode, tokens_a, tokens_b, grid, masks or None)
        lists = [tokens[layer] for tokens in (decoded.tokens_a, decoded.tokens_b) for layer in tokens if layer > 0]
        return (*lists, decoded.source, decoded.reference)

    def _pairs_of(self, grid: tuple[int, int], inputs: Sequence[Tensor], answer: Sequence[Tensor]) -> DecodedPairs:
        """From what `_decoded` got and gave."""
        *lists, source, reference = answer
        layers, half = [layer for layer in self._head_layers if layer > 0], len(lists) // 2
        tokens = (
            {0: first} | dict(zip(layers, own, strict=True))
            for first, own in zip(inputs[:2], (lists[:half], lists[half:]), strict=True)
        )
        return DecodedPairs(grid, *tokens, source, reference)

    def _regressed(self, grid: tuple[int, int], *levels: Tensor) -> tuple[Tensor, ...]:
        return self._calls.call(("heads", grid), partial(self._made_points, grid), *levels)

    def _made_points(self, grid: tuple[int, int], *levels: Tensor) -> tuple[Tensor, ...]:
        return self._compiled.call("regress", self.network.regress, grid, *levels)

    # -- masks -------------------------------------------------------------------------------------------------------

    def _changed(
        self, pairs: Sequence[Pair], masks: Mapping[int, Tensor], moving: Collection[int] | None
    ) -> list[bool]:
        """Per pair, whether the masks change its answer. moving: as `attend`; what is known need not be asked."""
        if moving is not None:
            return [a.index in masks and b.index in masks and b.index in moving for a, b in pairs]
        views = self._token_masks(pairs, masks)
        return [False] * len(pairs) if views is None else fetch(changed_by_mask(*views), "changed pairs").tolist()

    def _token_masks(self, pairs: Sequence[Pair], masks: Mapping[int, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Masks (B, N) bool of the views a and b; all static for pairs that stay unmasked."""
        masked = [a.index in masks and b.index in masks for a, b in pairs]
        if not any(masked):
            return None
        frames = {features.index: features for pair in pairs for features in pair if features.index in masks}
        for index, features in frames.items():
            if tuple(masks[index].shape) != features.input.image.shape[:2]:
                raise ValueError(
                    f"mask of frame {index} is {tuple(masks[index].shape)}, not {features.input.image.shape[:2]}"
                )
        pixels = upload(torch.stack([masks[index] for index in frames]), self._device)  # (F, h, w)
        by_frame = dict(zip(frames, token_masks(pixels, self._patch), strict=True))
        static = torch.zeros(len(pairs[0][0].tokens), dtype=torch.bool, device=self._device)
        views = (
            [by_frame[pair[view].index] if use else static for pair, use in zip(pairs, masked, strict=True)]
            for view in (0, 1)
        )
        return tuple(torch.stack(rows) for rows in views)


def _gathered(rows: Sequence[DecodedRow]) -> DecodedPairs:
    """Rows of batches as one batch."""
    batch = rows[0].batch
    if [row.row for row in rows] == list(range(len(batch.source))) and all(row.batch is batch for row in rows):
        return batch

    def tokens(tower: str) -> dict[int, Tensor]:
        layers = getattr(batch, tower)
        return {layer: torch.stack([getattr(row.batch, tower)[layer][row.row] for row in rows]) for layer in layers}

    source, reference = (
        torch.stack([getattr(row.batch, name)[row.row] for row in rows]) for name in ("source", "reference")
    )
    return DecodedPairs(batch.grid, tokens("tokens_a"), tokens("tokens_b"), source, reference)


def device_named(name: str) -> torch.device:
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
