"""Random tensors from one seeded generator, on the CPU whatever the renderer runs on: the same scenes everywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Dice:
    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """bool, True with the given probability."""
        return torch.rand(shape, generator=self._generator) < probability

    def sign(self, *shape: int) -> Tensor:
        return torch.where(self.chance(0.5, *shape), 1.0, -1.0)

    def pick(self, weights: Tensor | list[float], *shape: int) -> Tensor:
        """int64 index into `weights`, with a probability in proportion to them."""
        weights = torch.as_tensor(weights, dtype=torch.float32)
        count = math.prod(shape)
        return torch.multinomial(weights, count, replacement=True, generator=self._generator).view(shape)

    def direction(self, *shape: int) -> Tensor:
        """(*shape, 3) unit vectors."""
        return torch.nn.functional.normalize(self.normal(*shape, 3), dim=-1)
