"""Which way is up: the rotation from the alignment's world (axes of the first optical frame) to a levelled `map`."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

GRAVITY = 9.81  # m/s^2
# A resting accelerometer: its mean is gravity to within its bias, and it neither shakes nor turns.
STILL_MEAN, STILL_SPREAD, STILL_TURN = 0.6, 0.35, 0.06  # m/s^2, m/s^2, rad/s
AVERAGED = 0.6  # seconds
FEWEST = 5  # accelerations in a mean
_KEPT = 4000

# Optical axes (x right, y down, z forward) to those of REP-103 (x forward, y left, z up), of a camera held level.
CAMERA_LEVEL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def levelled(up: np.ndarray, forward: np.ndarray, top: np.ndarray) -> np.ndarray:
    """(3, 3) map_from_world with z along `up` and x along the horizontal part of `forward`.

    All (3,), in the world's axes. top: taken where `forward` is vertical, as that of a camera that looks down is: the
    direction of the image's upper edge. Raises ValueError if `up` has no direction.
    """
    length = np.linalg.norm(up)
    if not length > 0 or not np.isfinite(length):
        raise ValueError("gravity has no direction")
    z = up / length
    for candidate in (forward, top, np.roll(z, 1)):
        x = candidate - (candidate @ z) * z
        if np.linalg.norm(x) > 0.1 * np.linalg.norm(candidate):
            break
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


@dataclass(frozen=True)
class Upright:
    """What is known about up at one image, in the axes of its optical frame."""

    up: np.ndarray  # (3,) any length
    forward: np.ndarray | None = None  # (3,) what becomes x; None: where the camera looks
    position: np.ndarray | None = None  # (3,) metres, of the camera above and beside the origin, in levelled axes
    still: bool = True  # whether it was measured at rest


class Accelerometer:
    """The last seconds of an IMU. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[tuple[int, np.ndarray, np.ndarray]] = deque(maxlen=_KEPT)

    def add(self, stamp_ns: int, acceleration: np.ndarray, turning: np.ndarray) -> None:
        """acceleration: (3,) m/s^2 as an accelerometer measures it: +9.81 upwards at rest. turning: (3,) rad/s."""
        if not (np.isfinite(acceleration).all() and np.isfinite(turning).all()):
            return
        with self._lock:
            if self._samples and stamp_ns < self._samples[-1][0]:
                self._samples.clear()  # another recording, or the same from its beginning
            self._samples.append((stamp_ns, acceleration, turning))

    def clear(self) -> None:
        with self._lock:
            self._samples.clear()

    def up(self, stamp_ns: int) -> tuple[np.ndarray, bool] | None:
        """((3,) mean acceleration just before a time, whether the IMU was still); None: too few came."""
        with self._lock:
            near = [s for s in self._samples if -AVERAGED / 6 <= (stamp_ns - s[0]) / 1e9 <= AVERAGED]
        if len(near) < FEWEST:
            return None
        accelerations = np.stack([s[1] for s in near])
        turning = np.stack([s[2] for s in near])
        mean = accelerations.mean(0)
        still = (
            abs(np.linalg.norm(mean) - GRAVITY) < STILL_MEAN
            and float(np.linalg.norm(accelerations.std(0))) < STILL_SPREAD
            and float(np.linalg.norm(turning, axis=1).mean()) < STILL_TURN
        )
        return mean, still


@dataclass(frozen=True)
class Level:
    """map_from_world before metres are known."""

    rotation: np.ndarray  # (3, 3)
    position: np.ndarray | None = None  # (3,) metres, of the first camera in map; None: it is the origin


class Leveller:
    """Decides on the level of one world, from what is known about up at its first images."""

    def __init__(self, mode: str):
        """mode: `PipelineConfig.level`."""
        self.mode = mode
        self.why_blind = ""  # why nothing is known about up, for a person
        self._seen: list[tuple[np.ndarray, Upright]] = []  # (3, 3) world_from_cam, ...

    @property
    def needs(self) -> bool:
        """Whether it asks for `Upright`s."""
        return self.mode in ("imu", "tf")

    def see(self, world_from_cam: np.ndarray, upright: Upright) -> None:
        """world_from_cam: (4, 4) of the image that `upright` is about."""
        self._seen = [*self._seen[-99:], (world_from_cam[:3, :3], upright)]

    def decide(self) -> tuple[Level, str]:
        """(level, what is wrong with it for a person, or nothing)."""
        if self.mode == "none":
            return Level(np.eye(3)), ""
        if self.mode == "camera":
            return Level(CAMERA_LEVEL), ""
        if not self._seen:
            return Level(
                CAMERA_LEVEL
            ), f"{self.why_blind}; map is levelled as if the first image was level (until reset)"
        still = [(pose, upright) for pose, upright in self._seen if upright.still]
        chosen = still or self._seen
        # Accelerations of a moving camera average out over its ways, gravity does not.
        up = np.sum([pose @ (u.up / max(np.linalg.norm(u.up), 1e-9)) for pose, u in chosen], axis=0)
        pose, first = self._seen[0]
        forward = np.array([0.0, 0.0, 1.0]) if first.forward is None else first.forward
        rotation = levelled(up, pose @ forward, pose @ np.array([0.0, -1.0, 0.0]))
        moving = (
            "" if still else "the IMU did not rest while tracking started, so that map may be tilted by some degrees"
        )
        return Level(rotation, first.position), moving
