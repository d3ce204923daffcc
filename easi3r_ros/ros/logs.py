"""Log lines that a person can read: repeated ones held back, and the library's own passed on to the node's logger."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

_NUMBER = re.compile(r"\d+(\.\d+)?")
_KEPT = 64


class Throttle:
    """Lets a sentence through once per period; sentences that differ only in their numbers are the same."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._seconds = seconds
        self._clock = clock
        self._said: dict[str, float] = {}

    def allows(self, text: str) -> bool:
        key, now = _NUMBER.sub("#", text), self._clock()
        if now - self._said.get(key, float("-inf")) < self._seconds:
            return False
        self._said.pop(key, None)
        self._said[key] = now
        if len(self._said) > _KEPT:
            del self._said[next(iter(self._said))]
        return True


class RosLogHandler(logging.Handler):
    """Passes records of Python's logging on to an rclpy logger."""

    def __init__(self, logger: Any):
        super().__init__()
        # rclpy ties a severity to the line of the call, so each severity has a line of its own.
        self._say = {
            logging.DEBUG: lambda text: logger.debug(text),
            logging.INFO: lambda text: logger.info(text),
            logging.WARNING: lambda text: logger.warning(text),
            logging.ERROR: lambda text: logger.error(text),
            logging.CRITICAL: lambda text: logger.fatal(text),
        }

    def emit(self, record: logging.LogRecord) -> None:
        self._say.get(record.levelno, self._say[logging.INFO])(record.getMessage())
