"""Frames and their transforms over the last seconds, as tf2's buffer keeps them; stands in where tf2_ros is missing.

Knows no ROS: whoever listens to /tf puts transforms in. Not thread-safe.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

SECOND = 1_000_000_000
KEPT_SECONDS = 10.0  # as tf2
MOST_FRAMES = 4096  # some systems broadcast ever new ones: the one that was silent longest is forgotten
MOST_SAMPLES = 12_000  # per frame: 10 s at 1 kHz, and then some
MOST_WAITING = 32

Item = TypeVar("Item")


class TransformError(LookupError):
    """There is no transform between two frames at a time; the text says why."""


class NotYet(TransformError):
    """What is missing may still come: a frame that nobody broadcast so far, or a time that is newer than the last."""


class TooOld(TransformError):
    """What is missing was never there, or is forgotten."""


class _Link:
    """How a frame lay in its parent over time; sorted by stamp."""

    def __init__(self, parent: str, static: bool):
        self.parent, self.static = parent, static
        self.stamps: list[int] = []
        self.values: list[tuple] = []  # (translation (3), quaternion (4) x, y, z, w)

    def put(self, stamp: int, value: tuple) -> None:
        if self.static:
            self.stamps, self.values = [stamp], [value]
            return
        if self.stamps and stamp <= self.stamps[-1]:
            if stamp < self.stamps[-1] - int(KEPT_SECONDS * SECOND):  # time began again
                self.stamps, self.values = [stamp], [value]
                return
            at = bisect_left(self.stamps, stamp)
            if self.stamps[at] != stamp:  # what was said of a time is not said again, as in tf2
                self.stamps.insert(at, stamp)
                self.values.insert(at, value)
            return
        self.stamps.append(stamp)
        self.values.append(value)
        if len(self.stamps) > 2 and len(self.stamps) % 64 == 0:
            self._forget()

    def _forget(self) -> None:
        first = bisect_left(self.stamps, self.stamps[-1] - int(KEPT_SECONDS * SECOND))
        first = max(first, len(self.stamps) - MOST_SAMPLES)
        if first > 0:
            del self.stamps[:first], self.values[:first]

    def at(self, child: str, stamp: int, tolerance: int) -> np.ndarray:
        """(4, 4) parent_from_child. Raises TransformError."""
        if self.static:
            return _matrix(*self.values[0])
        first, last = self.stamps[0], self.stamps[-1]
        if stamp > last + tolerance:
            raise NotYet(
                f"the last transform {self.parent} -> {child} is {(stamp - last) / SECOND:.3f} s older than the image"
            )
        if stamp < first - tolerance:
            raise TooOld(
                f"the first transform {self.parent} -> {child} is {(first - stamp) / SECOND:.3f} s newer than the image"
            )
        at = bisect_left(self.stamps, stamp)
        if at == len(self.stamps) or at == 0 or self.stamps[at] == stamp:
            return _matrix(*self.values[min(at, len(self.stamps) - 1)])
        (t0, q0), (t1, q1) = self.values[at - 1], self.values[at]
        share = (stamp - self.stamps[at - 1]) / (self.stamps[at] - self.stamps[at - 1])
        out = np.eye(4)
        out[:3, :3] = Slerp([0.0, 1.0], Rotation.from_quat([q0, q1]))(share).as_matrix()
        out[:3, 3] = (1 - share) * np.asarray(t0) + share * np.asarray(t1)
        return out


def _matrix(translation: tuple, quaternion: tuple) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    out[:3, 3] = translation
    return out


class TransformTree:
    """As tf2's BufferCore: what was put in can be looked up, interpolated, along the chain between two frames."""

    def __init__(self) -> None:
        self._links: OrderedDict[str, _Link] = OrderedDict()

    def put(self, parent: str, child: str, stamp_ns: int, translation: tuple, quaternion: tuple, static: bool) -> bool:
        """parent_from_child at a time. quaternion: x, y, z, w. False: left out, because it is no transform."""
        numbers = (*translation, *quaternion)
        norm = sum(value * value for value in quaternion)
        if not child or not parent or child == parent or not abs(norm - 1) < 0.1 or sum(numbers) != sum(numbers):
            return False
        link = self._links.get(child)
        if link is None or link.parent != parent or link.static != static:
            link = self._links[child] = _Link(parent, static)
        link.put(stamp_ns, (translation, quaternion))
        if not static:
            self._links.move_to_end(child)
            if len(self._links) > MOST_FRAMES:
                del self._links[next(name for name, item in self._links.items() if not item.static)]
        return True

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int = 0) -> np.ndarray:
        """(4, 4) target_from_source at a time. Raises TransformError.

        tolerance_ns: so far beyond the first or last transform that one is taken for the one at `stamp_ns`.
        """
        up_source, up_target = list(self._up(source)), list(self._up(target))
        common = next((frame for frame in up_source if frame in set(up_target)), None)
        if common is None:
            raise NotYet(self._unconnected(target, source))
        target_from_common = np.linalg.inv(self._chain(up_target, common, stamp_ns, tolerance_ns))
        return target_from_common @ self._chain(up_source, common, stamp_ns, tolerance_ns)

    def _up(self, frame: str) -> Iterator[str]:
        seen = set()
        while frame not in seen:  # a circle is somebody's mistake: it has no root
            seen.add(frame)
            yield frame
            link = self._links.get(frame)
            if link is None:
                return
            frame = link.parent

    def _chain(self, up: list[str], common: str, stamp_ns: int, tolerance_ns: int) -> np.ndarray:
        """(4, 4) common_from_frame, of the frame where `up` begins."""
        out = np.eye(4)
        for frame in up[: up.index(common)]:
            out = self._links[frame].at(frame, stamp_ns, tolerance_ns) @ out
        return out

    def _unconnected(self, target: str, source: str) -> str:
        known = self._links.keys() | {link.parent for link in self._links.values()}
        for frame in (target, source):
            if frame not in known:
                return f"nobody broadcasts a transform of '{frame}'"
        return f"'{target}' and '{source}' are not connected"


class Waiting(Generic[Item]):
    """Items that wait for a transform at their time, in order of their coming; bounded."""

    def __init__(self, patience: float, most: int = MOST_WAITING):
        """patience: seconds that an item waits, by the clock that `resolve` is given."""
        self._patience = patience
        self._items: deque[tuple[float, Item]] = deque(maxlen=most)
        self.given_up = 0
        self.why = ""  # the last one was given up; or, while it waits, why

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item, now: float) -> None:
        if len(self._items) == self._items.maxlen:
            self.given_up += 1
        self._items.append((now, item))

    def clear(self) -> None:
        self._items.clear()

    def resolve(self, lookup: Callable[[Item, bool], np.ndarray], now: float) -> Iterator[tuple[Item, np.ndarray]]:
        """(item, transform) of those that are found, in order; the first that must wait holds up those behind it.

        lookup(item, last): raises TransformError; last: this is the last time that it is asked for this item.
        """
        while self._items:
            since, item = self._items[0]
            last = now - since >= self._patience
            try:
                found = lookup(item, last)
            except NotYet as error:
                self.why = str(error)
                if not last:
                    return
                found = None
            except TransformError as error:
                self.why, found = str(error), None
            self._items.popleft()
            if found is None:
                self.given_up += 1
            else:
                yield item, found
