"""How many metres one unit of the alignment is: a robust running estimate that knows how sure it is.

Sources measure (`Measurement`); the estimator believes them once enough agree, and stops believing when they change
their mind. It never knows where measurements come from.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from easi3r_ros.core.types import Scale, ScaleState

KEPT = 30  # measurements
AGREE = 0.10  # of log metres: closer measurements are of one mind, whatever they say about their errors
CHANGED = 0.15  # of log metres: farther ones contradict what was locked
RECENT, CONTRADICTING = 6, 5  # so many of the last so many end the lock
DOUBTFUL = 3  # times as many as at first are needed after that: wheels may slip for a while, and agree in it
DEAD_BAND = 0.02  # relative: a better estimate that differs by less changes nothing
DRIFT = 2e-4  # relative, per frame since the last measurement that agreed, as a random walk per square root of frames


@dataclass(frozen=True)
class Measurement:
    """One independent answer. NaN: source and camera contradict each other, see `reason`."""

    metres: float  # per unit of the alignment
    sigma: float = math.nan  # relative standard deviation
    reason: str = ""  # of a contradiction, for a person


@dataclass(frozen=True)
class LockRule:
    fewest: int  # measurements
    shared: float  # relative: errors that all measurements have in common, such as the wheel's diameter
    sigma: float = 0.05  # relative, of the estimate, with what is shared
    agreeing: float = 0.7  # share of the measurements


class ScaleEstimator:
    """Weighted median of the last measurements (of logarithms), with its standard error from their spread."""

    def __init__(self, source: str, rule: LockRule, waiting_for: str):
        """source: as `ScaleConfig.source`. waiting_for: for a person, while there is nothing."""
        self._source, self._rule, self.waiting_for = source, rule, waiting_for
        self.restart()

    def restart(self, why: str = "") -> None:
        """A new world has another unit. why: for a person."""
        self._kept: deque[Measurement] = deque(maxlen=KEPT)
        self._locked: float | None = None  # log metres
        self._fewest = self._rule.fewest
        self._age = 0  # frames since the last agreement
        self._why = why

    @property
    def locked(self) -> bool:
        return self._locked is not None

    def frame_passed(self) -> None:
        """One more image, measured or not: alignment drifts."""
        self._age += 1

    def add(self, measurement: Measurement) -> str:
        """Take one in. Returns what changed, for a person: locked, or not any more; else nothing."""
        self._kept.append(measurement)
        if self._locked is None:
            return self._try_to_lock()
        if self._contradicts(measurement):
            recent = list(self._kept)[-RECENT:]
            if sum(self._contradicts(item) for item in recent) < CONTRADICTING:
                return ""
            return self._unlock(recent)
        self._age = 0
        centre, sigma, _ = self._estimate()
        if abs(centre - self._locked) > max(DEAD_BAND, 2 * sigma):
            self._locked = centre
        return ""

    @property
    def scale(self) -> Scale:
        if not self._values().size:
            reason = "; ".join(text for text in (self._why, self._last_reason(), self.waiting_for) if text)
            return Scale(self._source, ScaleState.UNLOCKED, math.nan, math.nan, reason)
        centre, sigma, agreeing = self._estimate()
        if self._locked is not None:
            return Scale(self._source, ScaleState.LOCKED, math.exp(self._locked), math.hypot(sigma, self._drift), "")
        reason = (
            f"{len(self._kept)} measurements, {agreeing:.0%} of them agree, to {sigma:.0%}; needed: "
            f"{self._fewest}, {self._rule.agreeing:.0%}, {self._rule.sigma:.0%}"
        )
        reason = "; ".join(text for text in (self._why, reason, self._last_reason()) if text)
        return Scale(self._source, ScaleState.UNLOCKED, math.exp(centre), sigma, reason)

    @property
    def _drift(self) -> float:
        return DRIFT * math.sqrt(self._age)

    def _last_reason(self) -> str:
        return next((item.reason for item in reversed(self._kept) if item.reason), "")

    def _values(self) -> np.ndarray:
        return np.array([item.metres for item in self._kept if item.metres > 0])

    def _estimate(self) -> tuple[float, float, float]:
        """(log metres, relative standard error, share of all measurements that agree)."""
        usable = [item for item in self._kept if item.metres > 0]
        logs = np.log([item.metres for item in usable])
        sigmas = np.maximum([item.sigma for item in usable], 1e-3)
        order = np.argsort(logs)
        shares = np.cumsum((1 / sigmas**2)[order])
        centre = float(logs[order][np.searchsorted(shares, 0.5 * shares[-1])])
        off = np.abs(logs - centre)
        inside = off <= np.maximum(AGREE, 3 * sigmas)
        spread = max(1.4826 * float(np.median(off[inside])), float(1 / np.sqrt(np.mean(1 / sigmas[inside] ** 2))))
        error = 1.2533 * spread / math.sqrt(inside.sum())  # of a median of normal values
        return centre, math.hypot(error, self._rule.shared), float(inside.sum() / len(self._kept))

    def _contradicts(self, item: Measurement) -> bool:
        if not item.metres > 0:
            return True
        return abs(math.log(item.metres) - self._locked) > max(CHANGED, 4 * item.sigma)

    def _try_to_lock(self) -> str:
        if len(self._kept) < self._fewest or not self._values().size:
            return ""
        centre, sigma, agreeing = self._estimate()
        if agreeing < self._rule.agreeing or sigma > self._rule.sigma:
            return ""
        self._locked, self._age, self._why = centre, 0, ""
        return f"metres are known from {self._source}: one unit is {math.exp(centre):.4g} m (+- {sigma:.1%})"

    def _unlock(self, recent: list[Measurement]) -> str:
        before = math.exp(self._locked)
        values = [item.metres for item in recent if item.metres > 0]
        now = f"now says {np.median(values):.4g} m" if values else recent[-1].reason or "contradicts the camera"
        self.restart(f"metres are not known any more: one unit was {before:.4g} m, and {self._source} {now}")
        self._kept.extend(recent)
        self._fewest = min(KEPT, DOUBTFUL * self._rule.fewest)
        return f"{self._why}; depth, clouds and poses are withheld until its measurements agree again"
