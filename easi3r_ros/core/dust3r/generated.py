"""Weights made from parameter names: a network of any size that runs, and gives the same numbers, on every machine.

They mean nothing; they are there to compare implementations (`easi3r-lab verify`), to test and to measure.
The rule is that of section 1 of the golden data.
"""

from __future__ import annotations

import argparse
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from easi3r_ros.core.dust3r.checkpoints import canonical_name, constructor_text
from easi3r_ros.core.dust3r.network import Dust3rNetwork, NetworkConfig

# Chosen so that logits have a standard deviation of 1 to 2 and points stay within 10 units; the first match counts.
GAINS = (
    (".attn.qkv.weight", 1.5),
    (".cross_attn.projq.weight", 1.5),
    (".cross_attn.projk.weight", 1.5),
    (".dpt.head.4.weight", 0.2),
    ("downstream_head1.proj.weight", 0.4),
    ("downstream_head2.proj.weight", 0.4),
)
VECTOR_SCALE = 0.02


def generated_tensor(name: str, shape: tuple[int, ...], salt: str = "") -> torch.Tensor:
    """float32 tensor of this shape, a function of its canonical name and of `salt` only."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32((salt + name).encode())))
    values = generator.standard_normal(shape, dtype=np.float32)
    if len(shape) >= 2:
        gain = next((gain for text, gain in GAINS if text in name), 1.0)
        values *= np.float32(gain / math.sqrt(math.prod(shape[1:])))
    else:
        values *= np.float32(VECTOR_SCALE)
        if name.endswith(".weight"):  # LayerNorm scales
            values += np.float32(1)
    return torch.from_numpy(values)


def generated_state(config: NetworkConfig, salt: str = "") -> dict[str, torch.Tensor]:
    """State dict of a network of this size, in the published order, aliases included."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Dust3rNetwork(config).state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        canonical = canonical_name(name)
        state[name] = state[canonical] if canonical in state else generated_tensor(canonical, shape, salt)
    return state


def generated_network(config: NetworkConfig, salt: str = "") -> Dust3rNetwork:
    with torch.device("meta"):
        network = Dust3rNetwork(config)
    network.load_state_dict(generated_state(config, salt), assign=True)
    return network.eval().requires_grad_(False)


def random_network(config: NetworkConfig, device: torch.device) -> Dust3rNetwork:
    """As `generated_network`, with numbers that the device draws itself: seconds, but other numbers on every kind."""
    with torch.device("meta"):
        network = Dust3rNetwork(config)
    network.to_empty(device=device)
    for name, values in network.state_dict().items():  # without copies: what is written here is the network's
        generator = torch.Generator(device).manual_seed(zlib.crc32(canonical_name(name).encode()))
        values.normal_(0, _deviation(name, tuple(values.shape)), generator=generator)
        if values.dim() == 1 and name.endswith(".weight"):  # LayerNorm scales
            values.add_(1)
    return network.eval().requires_grad_(False)


def _deviation(name: str, shape: tuple[int, ...]) -> float:
    if len(shape) < 2:
        return VECTOR_SCALE
    return next((gain for text, gain in GAINS if text in name), 1.0) / math.sqrt(math.prod(shape[1:]))


def write_generated_checkpoint(config: NetworkConfig, path: Path, salt: str = "") -> None:
    """A .pth file laid out as the published ones. The full-size network takes 2.3 GB of memory and of disk."""
    content = {"args": argparse.Namespace(model=constructor_text(config)), "model": generated_state(config, salt)}
    torch.save(content, path)
