"""Where tensors live, and the few places where host and device meet.

Everything full-size stays on the backbone's device. Whoever must cross does it through `upload`, `fetch` or
`pairs_on_host`, so that a search for these names finds every crossing; `CrossingCounter` counts what happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from easi3r_ros.core.types import PairGeometry


def upload(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for it: through page-locked memory where the device is a GPU."""
    tensor = torch.as_tensor(values)
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fetch(values: Tensor) -> Tensor:
    """To the host, waiting for what the device still has to do. No copy of what is there already."""
    if values.device.type != "cuda":
        return values.cpu()
    landing = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    landing.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return landing


MAPS = ("points_a", "points_b", "conf_a", "conf_b")


def pairs_on_host(pairs: Sequence[PairGeometry]) -> list[PairGeometry]:
    """The pairs with their pointmaps on the host, in one packed copy. Evidence stays where it is.

    For what measures motion by optical flow and for the alignment, which work there.
    """
    away = [pair for pair in pairs if pair.points_a.device.type != "cpu"]
    if not away:
        return list(pairs)
    sizes = [getattr(away[0], name).numel() for name in MAPS]
    packed = fetch(torch.cat([getattr(pair, name).flatten() for pair in away for name in MAPS]))
    landed = {}
    for pair, row in zip(away, packed.view(len(away), -1), strict=True):
        parts = row.split(sizes)
        maps = {name: part.view_as(getattr(pair, name)) for name, part in zip(MAPS, parts, strict=True)}
        landed[pair.edge] = replace(pair, **maps)
    return [landed.get(pair.edge, pair) for pair in pairs]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for; only for measurements."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class CrossingCounter(TorchDispatchMode):
    """Counts, while it is entered, the operations that make host and device wait for each other.

    These are copies to the CPU, single values, and operations whose answer's shape depends on values. With a GPU those
    on its own tensors count. On a CPU nothing tells the host's tensors from those that a GPU would have: all count, and
    the number is an upper bound. `by_name` maps the operation to how often it was called.
    """

    # Operations whose answer's shape, or whose Python value, depends on the content of a tensor.
    WAITING = frozenset(
        {
            "_local_scalar_dense",
            "item",
            "nonzero",
            "masked_select",
            "_unique2",
            "unique_dim",
            "unique_consecutive",
            "bincount",
            "equal",
            "is_nonzero",
            "repeat_interleave",
        }
    )

    def __init__(self, device: torch.device | None = None) -> None:
        """device: where the full-size tensors are; None: a CPU."""
        super().__init__()
        self._gpu = None if device is None or device.type == "cpu" else device.type
        self.by_name: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self.by_name.values())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if name in self.WAITING and self._concerns_device(args):
            self.by_name[name] += 1
        result = function(*args, **kwargs)
        if name in ("_to_copy", "copy_") and self._changes_device(args, result):
            self.by_name[name] += 1
        if name.startswith("index") and self._selects_by_mask(args) and self._concerns_device(args):
            self.by_name["index by a mask"] += 1
        return result

    def _concerns_device(self, args: tuple) -> bool:
        return self._gpu is None or any(x.device.type == self._gpu for x in tree_leaves(args) if isinstance(x, Tensor))

    @staticmethod
    def _changes_device(args: tuple, result: object) -> bool:
        devices = {x.device.type for x in (*tree_leaves(args), result) if isinstance(x, Tensor)}
        return len(devices) > 1

    @staticmethod
    def _selects_by_mask(args: tuple) -> bool:
        indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices)
