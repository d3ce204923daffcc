"""Two streams of messages joined by their stamps, whichever of the two comes first; bounded. Knows no node."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

First = TypeVar("First")
Second = TypeVar("Second")

LIMIT = 60  # of each side: two seconds of a usual camera
BYTES = 128 * 1024 * 1024  # of the second side, however few these are
_AHEAD_NS = 5_000_000_000  # what is later than this belongs to the time before a jump back


class Pairing(Generic[First, Second]):
    """Calls made(first, second) once for each `first` whose partner comes. Thread-safe; from the thread of the later.

    tolerance_ns: how far the stamps may differ, 0: not at all; the nearest is taken then. What is in hand (`in_hand`)
    keeps its partner, however long it takes: a slow reader of the newest loses no pair. size(second): its bytes.
    """

    def __init__(
        self,
        made: Callable[[First, Second], None],
        tolerance_ns: int = 0,
        size: Callable[[Second], int] = lambda _: 0,
        limit: int = LIMIT,
        most_bytes: int = BYTES,
    ):
        self._made, self._tolerance, self._size = made, tolerance_ns, size
        self._limit, self._most_bytes = limit, most_bytes
        self._lock = threading.Lock()
        self._firsts: OrderedDict[int, First] = OrderedDict()
        self._seconds: OrderedDict[int, Second] = OrderedDict()
        self._bytes = 0
        self._pinned: int | None = None
        self.paired = 0
        self.unpaired = 0  # firsts given up
        self.came = 0  # seconds

    @property
    def has_room(self) -> bool:
        """Whether a further `second` would push out none."""
        with self._lock:
            return not self._is_full()

    def in_hand(self, stamp_ns: int) -> None:
        """The `first` of this stamp is being made. Seconds before it will not be asked for any more."""
        with self._lock:
            self._pinned = stamp_ns
            for stamp in [s for s in self._seconds if s < stamp_ns - self._tolerance]:
                self._drop(stamp)

    def restart(self) -> None:
        """Time may have jumped: forget all that cannot belong to what is in hand, or to what comes after it."""
        with self._lock:
            now = self._pinned
            self._firsts.clear()
            for stamp in [s for s in self._seconds if now is None or not 0 <= s - now + self._tolerance <= _AHEAD_NS]:
                self._drop(stamp)

    def add_first(self, stamp_ns: int, first: First) -> None:
        with self._lock:
            found = self._nearest(self._seconds, stamp_ns)
            second = None if found is None else self._drop(found)
            if second is None:
                self._firsts[stamp_ns] = first
                while len(self._firsts) > self._limit:
                    self._firsts.popitem(last=False)
                    self.unpaired += 1
            else:
                self.paired += 1
        if second is not None:
            self._made(first, second)

    def add_second(self, stamp_ns: int, second: Second) -> None:
        with self._lock:
            self.came += 1
            found = self._nearest(self._firsts, stamp_ns)
            first = None if found is None else self._firsts.pop(found)
            if first is None:
                if stamp_ns in self._seconds:
                    self._drop(stamp_ns)
                self._seconds[stamp_ns] = second
                self._bytes += self._size(second)
                while len(self._seconds) > 1 and self._is_full(over=True):
                    self._drop(next(s for s in self._seconds if not self._is_pinned(s)))
            else:
                self.paired += 1
        if first is not None:
            self._made(first, second)

    def _is_full(self, over: bool = False) -> bool:
        full = len(self._seconds) - over >= self._limit
        return full or self._bytes > self._most_bytes

    def _is_pinned(self, stamp: int) -> bool:
        # Never all of them: the newest, which has just come, may be the only other one.
        newest = next(reversed(self._seconds))
        return self._pinned is not None and abs(stamp - self._pinned) <= self._tolerance and stamp != newest

    def _nearest(self, stamps: OrderedDict, stamp_ns: int) -> int | None:
        if stamp_ns in stamps:
            return stamp_ns
        if not self._tolerance or not stamps:
            return None
        nearest = min(stamps, key=lambda stamp: abs(stamp - stamp_ns))
        return nearest if abs(nearest - stamp_ns) <= self._tolerance else None

    def _drop(self, stamp: int) -> Second:
        second = self._seconds.pop(stamp)
        self._bytes -= self._size(second)
        return second


class LatestByStamp(Generic[First]):
    """The last items of a stream, to be asked for by stamp, if need be before they have come. Thread-safe."""

    def __init__(self, limit: int = LIMIT):
        self._limit = limit
        self._items: OrderedDict[int, First] = OrderedDict()
        self._came = threading.Condition()
        self._open = True

    def put(self, stamp_ns: int, item: First) -> None:
        with self._came:
            self._items.pop(stamp_ns, None)
            self._items[stamp_ns] = item
            while len(self._items) > self._limit:
                self._items.popitem(last=False)
            self._came.notify_all()

    def latest(self) -> First | None:
        with self._came:
            return self._items[next(reversed(self._items))] if self._items else None

    def at(self, stamp_ns: int, seconds: float) -> First | None:
        """The item of exactly this stamp; waits for it `seconds` at most."""
        with self._came:
            self._came.wait_for(lambda: stamp_ns in self._items or not self._open, seconds)
            return self._items.get(stamp_ns)

    def stop_waiting(self) -> None:
        with self._came:
            self._open = False
            self._came.notify_all()
