"""Where tensors live, and the few places where host and device meet.

Everything full-size stays on the backbone's device. Uploads (`upload`) wait for nothing. Whoever needs values on the
host makes the host wait for all that the device still has to do, so that happens at few places: `WAITS` names all of
them, a frame comes to at most MOST_WAITS, and nothing but `fetch`, `fetch_each` and `Parcel` does it. `observed` sees
every one, `CrossingCounter` whatever else PyTorch does of that kind.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Where the host waits for the device, and for what. A frame with the cue `attention` waits for the first, the third and
# the fourth; with `geometry` or `fused`, for the second to the fourth. The last one only if somebody reads a map.
WAITS = {
    "changed pairs": "one bit per pair: which ones the second pass changes",
    "motion": "pointmaps of the measured pairs on the nodes of the flow, odds of the attention on its cells",
    "samples": "1,500 pixels per pair and anchor, for poses and scales, and single numbers",
    "result": "mask, probability, depth and confidence of the frame, in one packed copy",
    # Not in every frame.
    "founding": "the samples once more, in the one frame that founds a world",
    "evidence": "maps of single cues, if somebody looks at them",
    "journal": "a few hundred pixels of every pair, for the alignment of a whole recording at once",
    "overflow": "whether float16 overflowed; other precisions do not ask",
    "published": "`motion.mode: paper` clusters and thresholds on the host, as published",
}
MOST_WAITS = 3

Observer = Callable[[str, Sequence[Tensor]], "Sequence[Tensor] | None"]
_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """While it is entered, every wait is told to `observer(place, tensors)`, on a CPU also, where it takes no time.

    What the observer returns, if it is not None, is taken for the values: for tests with devices that have none.
    """
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def upload(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for it: through page-locked memory where the device is a GPU."""
    tensor = torch.as_tensor(values)
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fetch(values: Tensor, place: str) -> Tensor:
    """To the host, waiting for what the device still has to do. No copy of what is there already.

    place: one of WAITS.
    """
    return fetch_each([values], place)[0]


def fetch_each(values: Sequence[Tensor], place: str) -> list[Tensor]:
    """As `fetch`, several at once, in one packed copy. Raises KeyError for a place that is not in WAITS."""
    _ = WAITS[place]
    for observer in _observers:
        if (told := observer(place, values)) is not None:
            return list(told)
    away = [x for x in values if x.device.type != "cpu"]
    if not away:
        return list(values)
    landed = iter(_unpacked(_landed(_packed(away)), away))
    return [x if x.device.type == "cpu" else next(landed) for x in values]


def _packed(values: Sequence[Tensor]) -> Tensor:
    """(bytes,) uint8: a single tensor as it is, several one after the other."""
    return torch.cat([x.contiguous().flatten().view(torch.uint8) for x in values])


def _unpacked(packed: Tensor, like: Sequence[Tensor]) -> Iterator[Tensor]:
    start = 0
    for x in like:
        size = x.numel() * x.element_size()
        # A copy: a view of another type must begin at a multiple of its size.
        yield packed[start : start + size].clone().view(x.dtype).view(x.shape)
        start += size


def _landed(values: Tensor) -> Tensor:
    if values.device.type != "cuda":
        return values.cpu()
    landing = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    landing.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return landing


class Parcel:
    """Tensors that several stages want on the host, in one packed copy: it is made when the first of them is opened."""

    def __init__(self, place: str):
        """place: one of WAITS."""
        self._place = place
        self._pending: list[Landing] = []

    def add(self, values: Tensor) -> Landing:
        landing = Landing(self, values)
        self._pending.append(landing)
        return landing

    def send(self) -> None:
        """Everything added since the last time."""
        pending, self._pending = self._pending, []
        for landing, values in zip(pending, fetch_each([item.values for item in pending], self._place), strict=True):
            landing.values, landing.sent = values, True


class Landing:
    """One tensor of a parcel."""

    def __init__(self, parcel: Parcel, values: Tensor):
        self._parcel, self.values, self.sent = parcel, values, False

    def open(self) -> Tensor:
        """On the host."""
        if not self.sent:
            self._parcel.send()
        return self.values


def memory_used_mb(device: torch.device) -> float:
    """GPU: the most that tensors on it took since this was last asked; else what the process takes now."""
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return used / 1e6
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


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

    COPIES = frozenset({"_to_copy", "copy_", "to", "cpu", "cuda"})  # in inference mode `to` comes undivided

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
        if name in self.COPIES and self._changes_device(args, result):
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
