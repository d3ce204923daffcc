"""What the node knows about its own work, for diagnostics once a second. Knows no node."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from easi3r_ros.core.types import FrameResult, TrackingState
from easi3r_ros.messages.message_types import DiagnosticStatus, KeyValue
from easi3r_ros.messages.status import BackboneInfo, Counts
from easi3r_ros.ros.params import NodeConfig

_LEVELS = {
    TrackingState.INITIALISING: DiagnosticStatus.WARN,
    TrackingState.TRACKING: DiagnosticStatus.OK,
    TrackingState.DEGRADED: DiagnosticStatus.WARN,
    TrackingState.LOST: DiagnosticStatus.ERROR,
}
_RATE_SECONDS = 5.0
_RECENT = 5.0  # seconds over which losses and failures count as what happens now
_MOST = 0.5  # share of the images whose loss is an error
_LATENCIES_KEPT = 200
_ENOUGH = 10  # results; before, a rate or a percentile says little


class Sample(NamedTuple):
    when: float
    received: int
    processed: int
    failed: int
    lost: int


class Monitor:
    """Collects what happened; written by the worker and the reader, read by a timer. Thread-safe, bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._finished: deque[float] = deque(maxlen=1000)
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._last_image: float = clock()
        self._samples: deque[Sample] = deque([Sample(clock(), 0, 0, 0, 0)])
        self._last_result: FrameResult | None = None
        self.lost: int | None = 0  # images that the middleware could not deliver; None: it does not say
        self.restarts = 0  # new worlds since activation
        self.late = 0  # images left out because newer ones came before them
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

    def input_diagnostic(
        self,
        node: str,
        topic: str,
        counts: Counts,
        silent: bool,
        paused: bool,
        why_silent: str = "",
        max_lost: float = NodeConfig.diagnostics_max_lost,
    ) -> DiagnosticStatus:
        """To be asked for once a second or so: what happened since the last few times decides."""
        level, text = self._input_state(self._recent(counts), silent, paused, why_silent, max_lost)
        values = {
            "topic": topic,
            "received": counts.received,
            "processed": counts.processed,
            "dropped": counts.dropped,
            "failed": counts.failed,
            "late": self.late,
            "lost by the middleware": "unknown" if self.lost is None else self.lost,
        }
        return _diagnostic(f"{node}: input", level, text, values)

    def _recent(self, counts: Counts) -> Sample:
        """What happened in the last seconds. The counts begin again with a reset."""
        now = Sample(self._clock(), counts.received, counts.processed, counts.failed, self.lost or 0)
        self._samples.append(now)
        while len(self._samples) > 2 and now.when - self._samples[1].when >= _RECENT:
            self._samples.popleft()
        return Sample(*(max(0, new - old) for new, old in zip(now, self._samples[0], strict=True)))

    def _input_state(
        self, recent: Sample, silent: bool, paused: bool, why_silent: str, max_lost: float
    ) -> tuple[bytes, str]:
        lost = recent.lost / max(1, recent.lost + recent.received)
        if paused:
            return DiagnosticStatus.WARN, "paused"
        if silent:
            level = DiagnosticStatus.ERROR if recent.lost else DiagnosticStatus.STALE
            text = f"no images for {self.silence:.0f} s"
            text += f", {recent.lost} were lost on the way" if recent.lost else ""
            return level, text + (f": {why_silent}" if why_silent else "")
        if recent.failed and not recent.processed:
            return DiagnosticStatus.ERROR, f"every image is refused: {self.last_error}"
        if lost > min(max_lost, _MOST):
            level = DiagnosticStatus.ERROR if lost > _MOST else DiagnosticStatus.WARN
            return level, f"{lost:.0%} of the images are lost by the middleware"
        if recent.failed:
            return DiagnosticStatus.WARN, f"{recent.failed} of {recent.received} images refused: {self.last_error}"
        return DiagnosticStatus.OK, "receiving images" if recent.received else "waiting for images"

    def tracking_diagnostic(
        self, node: str, backbone: BackboneInfo, starved: str = "", limits: NodeConfig | None = None
    ) -> DiagnosticStatus:
        """starved: why no result comes, if none does; then the last state says nothing of now."""
        with self._lock:
            result, latencies = self._last_result, list(self._latencies_ms)
        p50, p95, p99 = np.percentile(latencies, [50, 95, 99]) if latencies else (math.nan,) * 3
        values = {
            "backbone": backbone.name,
            "checkpoint": backbone.checkpoint or "none",
            "frame rate [Hz]": f"{self.frame_rate:.1f}",
            "latency p50 [ms]": f"{p50:.0f}",
            "latency p95 [ms]": f"{p95:.0f}",
            "latency p99 [ms]": f"{p99:.0f}",
            "restarts": self.restarts,
            "errors": self.errors,
            "last error": self.last_error,
        }
        if starved:
            before = f"; the last result was {result.state.value}" if result else ""
            return _diagnostic(f"{node}: tracking", DiagnosticStatus.STALE, f"no results: {starved}{before}", values)
        if result is None:
            return _diagnostic(f"{node}: tracking", DiagnosticStatus.OK, "no image processed yet", values)
        values["dynamic fraction"] = f"{result.dynamic_fraction:.3f}"
        values["effort"] = result.effort or "everything"
        text = result.state.value + (f": {result.reason}" if result.reason else "")
        slow = "" if limits is None else self._slow(p95, limits)
        if slow and _LEVELS[result.state] == DiagnosticStatus.OK:
            return _diagnostic(f"{node}: tracking", DiagnosticStatus.WARN, f"{text}; {slow}", values)
        return _diagnostic(f"{node}: tracking", _LEVELS[result.state], text, values)

    def _slow(self, p95_ms: float, limits: NodeConfig) -> str:
        """In which way the results are slower than was asked for; empty: they are not, or cannot be told yet."""
        with self._lock:
            told = len(self._finished) >= _ENOUGH
        rate = self.frame_rate
        if told and rate < limits.diagnostics_min_rate:
            return f"{rate:.1f} results per second, less than diagnostics_min_rate {limits.diagnostics_min_rate:g}"
        if told and p95_ms > 1e3 * limits.diagnostics_max_latency > 0:
            return f"latency {p95_ms:.0f} ms, more than diagnostics_max_latency {limits.diagnostics_max_latency:g} s"
        return ""


def state_diagnostic(node: str, level: bytes, text: str) -> DiagnosticStatus:
    """What a node that is not active says about itself."""
    return _diagnostic(f"{node}: state", level, text, {})


def starves(status: DiagnosticStatus) -> bool:
    """Whether an input's diagnostic says that nothing usable comes."""
    return status.level in (DiagnosticStatus.ERROR, DiagnosticStatus.STALE)


def _diagnostic(name: str, level: bytes, text: str, values: dict[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=text, hardware_id="none", values=pairs)
