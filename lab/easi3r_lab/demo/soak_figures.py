"""The figures of a soak: whether memory stays flat, every image is accounted for, and the last tenth is as fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

WARM_UP = 0.1  # share of the frames: the map and the path fill up, PyTorch and the allocator settle
_TENTH = 0.1


@dataclass(frozen=True)
class Mark:
    """One look at the node."""

    frames: int  # sent until then
    memory_mb: float  # resident, MiB
    cpu_seconds: float  # of all its threads, since it was started


@dataclass(frozen=True)
class Counted:
    """Images, as the camera and as the node count them."""

    sent: int
    answered: int  # statuses that came back
    unanswered: int  # given up
    received: int
    processed: int
    dropped: int
    failed: int
    lost: int | None  # by the middleware, as the node counts them; None: its middleware does not say


def forth_and_back(length: int, count: int) -> Iterator[int]:
    """`count` indices 0, 1, ..., length - 1, length - 2, ..., 1, 0, 1, ...: a camera without a jump."""
    period = max(1, 2 * (length - 1))
    for number in range(count):
        at = number % period
        yield at if at < length else period - at


def figures(latencies_ms: Sequence[float], marks: Sequence[Mark], counted: Counted, wanted: int) -> dict[str, Any]:
    """Numbers for a person and for JSON. wanted: frames that were asked for; less were sent if time ran out."""
    first, last = _tenths(latencies_ms)
    return {
        "frames_wanted": wanted,
        **asdict(counted),
        "every_loss_counted": adds_up(counted),
        **_memory(marks),
        "latency_ms_p50_first_tenth": _percentile(first, 50),
        "latency_ms_p50_last_tenth": _percentile(last, 50),
        "latency_ms_p99_first_tenth": _percentile(first, 99),
        "latency_ms_p99_last_tenth": _percentile(last, 99),
        **_cpu(marks),
    }


def adds_up(counted: Counted) -> bool:
    """Whether each image that was sent is in exactly one of the node's counts, and each result came back."""
    if counted.received != counted.processed + counted.dropped + counted.failed:
        return False
    if counted.sent != counted.received + (counted.lost or 0):
        return False
    return counted.answered == counted.processed and counted.sent == counted.answered + counted.unanswered


def _memory(marks: Sequence[Mark]) -> dict[str, float | None]:
    """Of the node after its warm-up: smallest and largest, and the last tenth of it against the first."""
    warm = [mark.memory_mb for mark in marks if mark.frames > WARM_UP * marks[-1].frames]
    if not warm:
        return {"memory_mb_min": None, "memory_mb_max": None, "memory_growth_percent": None}
    first, last = _tenths(warm)
    growth = 100 * (float(np.median(last)) / float(np.median(first)) - 1)
    return {
        "memory_mb_min": round(min(warm), 1),
        "memory_mb_max": round(max(warm), 1),
        "memory_growth_percent": round(growth, 2),
    }


def _cpu(marks: Sequence[Mark]) -> dict[str, float | None]:
    """Milliseconds of a core per frame in the first and the last tenth; other programs change them little."""
    pairs = zip(marks, marks[1:], strict=False)
    costs = [1e3 * (b.cpu_seconds - a.cpu_seconds) / (b.frames - a.frames) for a, b in pairs]
    first, last = _tenths(costs)
    return {
        "cpu_ms_per_frame_first_tenth": _percentile(first, 50),
        "cpu_ms_per_frame_last_tenth": _percentile(last, 50),
    }


def _tenths(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last tenth, at least one value each if there are any."""
    count = max(1, round(_TENTH * len(values)))
    return np.array(values[:count]), np.array(values[-count:])


def _percentile(values: np.ndarray, percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 1) if len(values) else None
