"""A thread that works through items handed over by another: the newest only (live), or every one (bag)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from easi3r_ros.messages.status import Counts

Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Worker(Generic[Item]):
    """Calls `process(item)` on its own thread, one item at a time, in the order of `submit`.

    `process` returns False for an item that it left out, which counts as dropped.

    live (lossless=False): an item that finds no room replaces the oldest waiting one, and `submit` never blocks.
    lossless: `submit` blocks until there is room. A caller that must not block asks `has_room` first and takes nothing
    more from where items come from until on_room(), called by any thread, tells it that there is room again.
    An exception of `process` goes to `on_error`, on the worker's thread, and the worker lives on.
    """

    def __init__(
        self,
        process: Callable[[Item], bool | None],
        on_error: Callable[[Exception], None],
        *,
        lossless: bool = False,
        capacity: int = 1,
        on_room: Callable[[], None] = lambda: None,
    ):
        self._process = process
        self._on_error = on_error
        self._on_room = on_room
        self._lossless = lossless
        self._capacity = capacity
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._actions: deque[Callable[[], None]] = deque()
        self._counts = Counts()
        self._paused = False
        self._in_hand = 0
        self._knocking = 0  # items whose `submit` waits for room
        self._thread: threading.Thread | None = None  # None: stopped; the thread may still finish what it has
        self._last: threading.Thread | None = None  # the same, kept after a stop
        self._acting = False  # whether somebody will still do what is given to `call` and `flush`

    @property
    def counts(self) -> Counts:
        with self._changed:
            return self._counts

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in hand."""
        with self._changed:
            return not self._items and not self._in_hand

    @property
    def waiting(self) -> int:
        """Items that are neither in hand nor done."""
        with self._changed:
            return len(self._items)

    def make_room(self, capacity: int) -> None:
        """From now on so many items may wait."""
        with self._changed:
            self._capacity = capacity
            self._changed.notify_all()

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def paused(self) -> bool:
        return self._paused

    def has_room(self) -> bool:
        """Whether `submit` would return at once."""
        with self._changed:
            return not self._lossless or self._thread is None or len(self._items) < self._capacity

    def start(self) -> None:
        """Raises RuntimeError if it runs already, or has not come to its end since `stop`."""
        with self._changed:
            if self._acting:
                raise RuntimeError("the worker runs already")
            self._counts = Counts()
            self._acting = True
            self._thread = self._last = threading.Thread(target=self._run, name="easi3r-worker", daemon=True)
            self._thread.start()

    def stop(self, patience: float | None = None) -> bool:
        """Finish the item in hand and what was given to `call` and `flush`, drop the rest, release a blocked `submit`.

        patience: seconds to wait for the end; None: as long as it takes. False: the worker is still busy.
        """
        with self._changed:
            self._thread = None
            self._clear()
            self._changed.notify_all()
            last = self._last
        if last is not None:
            last.join(patience)
        return last is None or not last.is_alive()

    def submit(self, item: Item) -> bool:
        """Hand over an item. False: it was refused, because the worker is stopped, or paused while live."""
        with self._changed:
            if self._thread is None:
                return False
            thread = self._thread
            self._count(received=1)
            if self._lossless:
                self._knocking += 1
                self._changed.wait_for(lambda: len(self._items) < self._capacity or self._thread is not thread)
                self._knocking -= 1
                if self._thread is not thread:
                    self._count(dropped=1)
                    return False
            elif self._paused:
                self._count(dropped=1)
                return False
            elif len(self._items) == self._capacity:
                self._items.popleft()
                self._count(dropped=1)
            self._items.append(item)
            self._changed.notify_all()
            return True

    def pause(self, paused: bool) -> None:
        """While paused nothing is processed. Live items are refused meanwhile, lossless ones kept waiting."""
        with self._changed:
            self._paused = paused
            if paused and not self._lossless:
                self._clear()
            self._changed.notify_all()

    def flush(self, then: Callable[[], None]) -> bool:
        """Drop what waits, count from zero, and call `then` as `call` does. False: as for `call`."""
        with self._changed:
            if not self.call(then):
                return False
            self._clear()
            self._counts = Counts(received=self._in_hand + self._knocking)
        self._on_room()
        return True

    def call(self, action: Callable[[], None]) -> bool:
        """Call `action` on the worker's thread before the next item, or before it ends.

        False: that will not happen, because the worker has come to its end or was never started.
        """
        with self._changed:
            if self._acting:
                self._actions.append(action)
                self._changed.notify_all()
            return self._acting

    def _clear(self) -> None:
        self._count(dropped=len(self._items))
        self._items.clear()

    def _count(self, **more: int) -> None:
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})

    def _run(self) -> None:
        thread = threading.current_thread()
        while (job := self._next(thread)) is not None:
            job()

    def _next(self, thread: threading.Thread) -> Callable[[], None] | None:
        """The next thing to do; blocks until there is one. None: the worker was stopped."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._thread is not thread or self._actions or (self._items and not self._paused)
            )
            if self._actions:
                action = self._actions.popleft()
                return lambda: self._guarded(action)
            if self._thread is not thread:
                self._acting = False
                return None
            was_full = len(self._items) == self._capacity
            item = self._items.popleft()
            self._in_hand = 1
            self._changed.notify_all()
            return lambda: self._work(item, was_full)

    def _work(self, item: Item, was_full: bool) -> None:
        if was_full and self._lossless:
            self._guarded(self._on_room)
        outcome = self._outcome(item)
        with self._changed:
            self._in_hand = 0
            self._count(**{outcome: 1})

    def _outcome(self, item: Item) -> str:
        """What the item counts as."""
        try:
            return "dropped" if self._process(item) is False else "processed"
        except Exception as error:
            self._report(error)
            return "failed"

    def _guarded(self, job: Callable[[], None]) -> bool:
        try:
            job()
        except Exception as error:
            self._report(error)
            return False
        return True

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception as another:  # without its thread the worker would be deaf, and nobody would know
            log.error("an error could not be handled: %r; it was: %r", another, error)
