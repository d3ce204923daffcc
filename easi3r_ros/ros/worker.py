"""A thread that works through items handed over by another: the newest only (live), or every one (bag)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from easi3r_ros.messages.status import Counts

Item = TypeVar("Item")


class Worker(Generic[Item]):
    """Calls `process(item)` on its own thread, one item at a time, in the order of `submit`.

    live (lossless=False): an item that finds no room replaces the oldest waiting one, and `submit` never blocks.
    lossless: `submit` blocks until there is room, so that its caller takes nothing more from where items come from.
    An exception of `process` goes to `on_error`, on the worker's thread, and the worker lives on.
    """

    def __init__(
        self,
        process: Callable[[Item], None],
        on_error: Callable[[Exception], None],
        *,
        lossless: bool = False,
        capacity: int = 1,
    ):
        self._process = process
        self._on_error = on_error
        self._lossless = lossless
        self._capacity = capacity
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._actions: deque[Callable[[], None]] = deque()
        self._counts = Counts()
        self._paused = False
        self._in_hand = 0
        self._thread: threading.Thread | None = None

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
    def paused(self) -> bool:
        return self._paused

    def start(self) -> None:
        """Raises RuntimeError if it runs already."""
        with self._changed:
            if self._thread is not None:
                raise RuntimeError("the worker runs already")
            self._counts = Counts()
            self._thread = threading.Thread(target=self._run, name="easi3r-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the item in hand, drop the rest, release a blocked `submit`, and wait for the thread to end."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._clear()
            self._actions.clear()
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def submit(self, item: Item) -> bool:
        """Hand over an item. False: it was refused, because the worker is stopped, or paused while live."""
        with self._changed:
            if self._thread is None:
                return False
            thread = self._thread
            self._count(received=1)
            if self._lossless:
                self._changed.wait_for(lambda: len(self._items) < self._capacity or self._thread is not thread)
                if self._thread is not thread:
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

    def flush(self, then: Callable[[], None]) -> None:
        """Drop what waits, count from zero, and call `then` on the worker's thread before the next item."""
        with self._changed:
            self._clear()
            self._counts = Counts(received=self._in_hand)
            self._actions.append(then)
            self._changed.notify_all()

    def call(self, action: Callable[[], None]) -> None:
        """Call `action` on the worker's thread before the next item."""
        with self._changed:
            self._actions.append(action)
            self._changed.notify_all()

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
            if self._thread is not thread:
                return None
            if self._actions:
                action = self._actions.popleft()
                return lambda: self._guarded(action)
            item = self._items.popleft()
            self._in_hand = 1
            self._changed.notify_all()
            return lambda: self._work(item)

    def _work(self, item: Item) -> None:
        done = self._guarded(lambda: self._process(item))
        with self._changed:
            self._in_hand = 0
            self._count(**{"processed" if done else "failed": 1})

    def _guarded(self, job: Callable[[], None]) -> bool:
        try:
            job()
        except Exception as error:
            self._on_error(error)
            return False
        return True
