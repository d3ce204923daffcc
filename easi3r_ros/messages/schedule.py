"""When a recorded message is due. Knows no node and no message type."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

TICK = 0.02  # seconds between two reports of the time while nothing is due


@dataclass(frozen=True)
class TimedMessage:
    """A message as it was recorded."""

    topic: str
    time_ns: int  # of recording
    data: bytes  # CDR


def paced(
    messages: Iterable[TimedMessage],
    rate: float,
    on_time: Callable[[int], None] | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[TimedMessage, float]]:
    """(message, seconds late) of each message when it is due, the first one at once.

    rate: recorded seconds per second. on_time(ns): told the recorded time at least every TICK seconds. A consumer that
    is too slow makes messages late; none is left out.
    """
    start, first = now(), None
    for message in messages:
        first = message.time_ns if first is None else first
        due = start + (message.time_ns - first) / 1e9 / rate
        while (left := due - now()) > 0:
            sleep(min(left, TICK) if on_time else left)
            if on_time:
                on_time(min(message.time_ns, first + int((now() - start) * rate * 1e9)))
        if on_time:
            on_time(message.time_ns)
        yield message, now() - due
