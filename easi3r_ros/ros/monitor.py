"""What the node knows about its own work, for diagnostics once a second. Knows no node."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from easi3r_ros.core.types import FrameResult, TrackingState
from easi3r_ros.messages.message_types import DiagnosticStatus, KeyValue
from easi3r_ros.messages.status import BackboneInfo, Counts

_LEVELS = {
    TrackingState.INITIALISING: DiagnosticStatus.WARN,
    TrackingState.TRACKING: DiagnosticStatus.OK,
    TrackingState.DEGRADED: DiagnosticStatus.WARN,
    TrackingState.LOST: DiagnosticStatus.ERROR,
}
_RATE_SECONDS = 5.0
_LATENCIES_KEPT = 200


class Monitor:
    """Collects what happened; written by the worker and the reader, read by a timer. Thread-safe, bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._finished: deque[float] = deque(maxlen=1000)
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._last_image: float = clock()
        self._last_result: FrameResult | None = None
        self.lost: int | None = 0  # images that the middleware could not deliver; None: it does not say
        self.restarts = 0  # new worlds since activation
        self.errors = 0
        self.last_error = ""

    def image_came(self) -> None:
        self._last_image = self._clock()

    def image_lost(self, count: int | None) -> None:
        self.lost = None if count is None or self.lost is None else self.lost + count

    def restarted(self) -> None:
        self.restarts += 1

    def failed(self, text: str) -> None:
        self.errors += 1
        self.last_error = text

    def finished(self, result: FrameResult, latency_ms: float) -> None:
        with self._lock:
            self._finished.append(self._clock())
            self._latencies_ms.append(latency_ms)
            self._last_result = result

    @property
    def silence(self) -> float:
        """Seconds since the last image, or since the beginning."""
        return self._clock() - self._last_image

    @property
    def frame_rate(self) -> float:
        """Results per second over the last seconds."""
        with self._lock:
            recent = [when for when in self._finished if self._clock() - when <= _RATE_SECONDS]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    def input_diagnostic(self, node: str, topic: str, counts: Counts, silent: bool, paused: bool) -> DiagnosticStatus:
        level = DiagnosticStatus.WARN if silent or paused else DiagnosticStatus.OK
        text = f"no images for {self.silence:.0f} s" if silent else "paused" if paused else "receiving images"
        values = {
            "topic": topic,
            "received": counts.received,
            "processed": counts.processed,
            "dropped": counts.dropped,
            "failed": counts.failed,
            "lost by the middleware": "unknown" if self.lost is None else self.lost,
        }
        return _diagnostic(f"{node}: input", level, text, values)

    def tracking_diagnostic(self, node: str, backbone: BackboneInfo) -> DiagnosticStatus:
        with self._lock:
            result, latencies = self._last_result, list(self._latencies_ms)
        p50, p95 = np.percentile(latencies, [50, 95]) if latencies else (math.nan, math.nan)
        values = {
            "backbone": backbone.name,
            "checkpoint": backbone.checkpoint or "none",
            "frame rate [Hz]": f"{self.frame_rate:.1f}",
            "latency p50 [ms]": f"{p50:.0f}",
            "latency p95 [ms]": f"{p95:.0f}",
            "restarts": self.restarts,
            "errors": self.errors,
            "last error": self.last_error,
        }
        if result is None:
            return _diagnostic(f"{node}: tracking", DiagnosticStatus.OK, "no image processed yet", values)
        values["dynamic fraction"] = f"{result.dynamic_fraction:.3f}"
        values["effort"] = result.effort or "everything"
        text = result.state.value + (f": {result.reason}" if result.reason else "")
        return _diagnostic(f"{node}: tracking", _LEVELS[result.state], text, values)


def state_diagnostic(node: str, level: bytes, text: str) -> DiagnosticStatus:
    """What a node that is not active says about itself."""
    return _diagnostic(f"{node}: state", level, text, {})


def _diagnostic(name: str, level: bytes, text: str, values: dict[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=text, hardware_id="none", values=pairs)
