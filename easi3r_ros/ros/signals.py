"""SIGINT and SIGTERM end the program quietly, with status 0, whatever it is doing. Imports next to nothing.

Python answers SIGINT with an exception at an arbitrary line, and rclpy answers both by shutting its context down under
whoever uses it: either can end in a traceback. Here a signal is only noted, and a thread acts on it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A network may have an image in hand, or load its weights, for much longer than anybody waits after Ctrl-C.
PATIENCE = 1.5


class Interrupts:
    """Made once per program, on its main thread, before what takes long. See `take_over`."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self._finished = threading.Event()
        self._stop: Callable[[], None] | None = None
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        # Written by C code at the moment of the signal; a handler in Python waits until the main thread comes to it.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)  # so that nothing is raised; the byte in the pipe is what counts
        threading.Thread(target=self._watch, name="easi3r-signals", daemon=True).start()

    def call(self, stop: Callable[[], None]) -> None:
        """From now on a signal calls `stop`, on another thread, and the program has PATIENCE seconds to end itself."""
        self._stop = stop

    def finish(self) -> None:
        """The program ends by itself now: signals change nothing any more."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the one handler that outlives the end of the interpreter
        self._finished.set()

    def _watch(self) -> None:
        os.read(self._read, 1)
        self.came.set()
        if self._stop is not None:
            self._stop()
            if self._finished.wait(PATIENCE):
                return
        if not self._finished.is_set():
            os._exit(0)


def leave(status: int) -> NoReturn:
    """End the program here and now, when everything is in order.

    The end of the interpreter would free what the system frees anyway, which takes a second with PyTorch loaded, and
    a thread that is inside PyTorch does not survive it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_taken: Interrupts | None = None


def take_over() -> Interrupts:
    """SIGINT and SIGTERM of this process from now on, for good. Until `Interrupts.call` they end it at once.

    Raises ValueError if called first on another thread than the main one.
    """
    global _taken
    if _taken is None:
        _taken = Interrupts()
    return _taken
