"""How much is done per frame, so that it ends in time and fits into memory: `engine.deadline_ms`, `engine.memory_mb`.

There is a ladder of levels, from everything that was configured to the least that still works: first a single pass,
then fewer partners, at last smaller images. `decide` is a pure function: from what is known, and what the last frame
took, to what the next one may. A level that is too slow is left after a few late frames; the one above is tried again
only after many frames that leave room for it, and each time that it turns out too slow, after four times as many. So a
level that is a little too slow is not entered and left for ever, and a load that has gone is noticed. Of memory nothing
comes back: a level that needed too much is never entered again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

LATE = 4  # frames that are late, less those that are not, until less is done
PATIENCE = 60  # frames in a row that leave room for more, until more is done
MOST_PATIENCE = 50_000  # frames
HEADROOM = 0.85  # of the deadline: what the level above may be expected to take
SETTLING = 8  # frames after a change that do not count: caches and warm-up
PROVEN = 10 * PATIENCE  # frames after which a level that was tried again has proven itself


@dataclass(frozen=True)
class Level:
    """What is done per frame."""

    partners: int
    passes: int
    scale: float = 1.0  # of the long side of the backbone's image

    @property
    def cost(self) -> float:
        """Relative: an image encoded, pairs decoded, all in proportion to pixels."""
        return (1 + self.partners * self.passes) * self.scale**2


@dataclass(frozen=True)
class Limits:
    deadline_ms: float = 0.0  # per frame; 0: none
    memory_mb: float = 0.0  # 0: none


@dataclass(frozen=True)
class Effort:
    """Where on the ladder, and what was learned."""

    level: int = 0  # index in the ladder, 0 is everything
    highest: int = 0  # those above needed too much memory
    late: int = 0  # leaky count
    room: int = 0  # frames in a row
    settling: int = 0  # frames that do not count
    patience: int = PATIENCE
    since_rise: int | None = None  # frames since the level was last raised; None: it has proven itself, or was lowered
    cause: str = ""  # why the level is not 0, for a person


def ladder(partners: int, passes: int, fewest: int, scales: Sequence[float] = (1.0,)) -> tuple[Level, ...]:
    """From everything to the least. fewest: partners that must be left. scales: of the image, descending from 1."""
    levels = [Level(partners, passes)]
    if passes > 1:
        levels.append(Level(partners, 1))
    levels += [Level(count, 1) for count in range(partners - 1, fewest - 1, -1)]
    levels += [replace(levels[-1], scale=scale) for scale in scales if scale < 1]
    return tuple(levels)


def decide(
    effort: Effort, levels: Sequence[Level], limits: Limits, latency_ms: float, memory_mb: float = 0.0
) -> Effort:
    """After a frame that took `latency_ms` and `memory_mb` at its worst: the effort for the next one."""
    lowest = len(levels) - 1
    if limits.memory_mb and memory_mb > limits.memory_mb and not effort.settling and effort.level < lowest:
        cause = f"{memory_mb:.0f} MB of memory, {limits.memory_mb:.0f} MB allowed"
        return _lowered(replace(effort, highest=effort.level + 1), cause)
    if effort.settling:
        return replace(effort, settling=effort.settling - 1)
    effort = replace(effort, since_rise=None if effort.since_rise is None else effort.since_rise + 1)
    if effort.since_rise is not None and effort.since_rise >= PROVEN:
        effort = replace(effort, since_rise=None, patience=PATIENCE)
    is_late = bool(limits.deadline_ms) and latency_ms > limits.deadline_ms
    effort = replace(effort, late=max(0, effort.late + (1 if is_late else -1)))
    if effort.late >= LATE and effort.level < lowest:
        return _lowered(effort, f"a frame took {latency_ms:.0f} ms, {limits.deadline_ms:.0f} ms allowed")
    if effort.level <= effort.highest:
        return replace(effort, room=0)
    above = latency_ms * levels[effort.level - 1].cost / levels[effort.level].cost
    has_room = not limits.deadline_ms or above < HEADROOM * limits.deadline_ms
    effort = replace(effort, room=effort.room + 1 if has_room else 0)
    return _raised(effort) if effort.room >= effort.patience else effort


def _lowered(effort: Effort, cause: str) -> Effort:
    relapsed = effort.since_rise is not None
    return replace(
        effort,
        level=effort.level + 1,
        late=0,
        room=0,
        settling=SETTLING,
        patience=min(4 * effort.patience, MOST_PATIENCE) if relapsed else effort.patience,
        since_rise=None,
        cause=cause,
    )


def _raised(effort: Effort) -> Effort:
    level = effort.level - 1
    return replace(
        effort, level=level, late=0, room=0, settling=SETTLING, since_rise=0, cause=effort.cause if level else ""
    )


def described(level: Level, fullest: Level, cause: str) -> str:
    """For a person; empty: everything is done."""
    if level == fullest:
        return ""
    passes = "1 pass" if level.passes == 1 else f"{level.passes} passes"
    size = "" if level.scale == 1 else f", images of {level.scale:.0%} of the size"
    return f"{level.partners} of {fullest.partners} partners, {passes}{size}: {cause}"
