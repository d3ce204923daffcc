"""The network's part of a frame on a CPU beside the plain way, from what one image and one pair take, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from easi3r_ros.core.bench import SIZES, PlainBackbone, moving_patterns, published_attention, spec_for
from easi3r_ros.core.config import BackboneConfig, PreprocessConfig
from easi3r_ros.core.dust3r.generated import random_network
from easi3r_ros.core.dust3r.inference import Dust3rBackbone
from easi3r_ros.core.preprocess import prepare
from easi3r_ros.core.types import PairGeometry

MAPS = ("points_a", "points_b", "conf_a", "conf_b")


@dataclass(frozen=True)
class NetworkPart:
    """CPU seconds, the best of the rounds; `difference`: largest relative one of all answers of a masked pair."""

    encode: float
    decode: float  # both towers, with statistics and masks
    heads: float
    plain_decode: float  # attention and statistics from matrices of tokens by tokens
    difference: float

    def frame(self, partners: int, passes: int = 2) -> tuple[float, float]:
        """Seconds per frame (fast, plain) with the cue `attention`: the plain way encodes both images of every pair."""
        pairs = 2 * partners
        fast = self.encode + passes * pairs * self.decode + pairs * self.heads
        return fast, passes * pairs * (2 * self.encode + self.plain_decode + self.heads)


@torch.inference_mode()
def measure(size: str, resolution: tuple[int, int], rounds: int) -> NetworkPart:
    network = random_network(SIZES[size], torch.device("cpu"))
    config = BackboneConfig(device="cpu")
    fast, plain = Dust3rBackbone(network, config), PlainBackbone(network, config)
    stream = moving_patterns(resolution)
    inputs = [prepare(next(stream), spec_for(resolution), PreprocessConfig()) for _ in range(2)]
    features = tuple(fast.encode(image) for image in inputs)
    mask = torch.zeros(inputs[0].image.shape[:2], dtype=torch.bool)
    mask[: mask.shape[0] // 3] = True
    masks = {0: mask, 1: mask}
    best: dict[str, float] = {}

    def timed(name: str, call: Callable[[], object]) -> object:
        begin = time.process_time()
        answer = call()
        best[name] = min(best.get(name, np.inf), time.process_time() - begin)
        return answer

    for _ in range(rounds):
        timed("encode", lambda: fast.encode(inputs[0]))
        answers = timed("decode", lambda: fast.attend([features], masks))
        (ours,) = timed("heads", lambda answers=answers: fast.pointmaps(answers))
        with published_attention():
            theirs = timed("plain_decode", lambda: plain._decode_batch([features], masks))
        (reference,) = plain.pointmaps(theirs)
    return NetworkPart(**best, difference=_difference(ours, reference))


def _difference(ours: PairGeometry, reference: PairGeometry) -> float:
    pairs = [(getattr(ours, name), getattr(reference, name)) for name in MAPS]
    a, b = ours.evidence.attention, reference.evidence.attention
    pairs += [(a.source, b.source), (a.reference, b.reference)]
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)
