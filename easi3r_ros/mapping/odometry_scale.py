"""Metres from a robot's odometry: how far it says the camera went, over how far the camera saw itself go."""

from __future__ import annotations

import math

import numpy as np

from easi3r_ros.mapping.scale import LockRule, Measurement

RULE = LockRule(fewest=6, shared=0.01)
TRAVEL = 0.15  # metres of odometry in one measurement
PATIENCE = 10.0  # seconds: slower ways are mostly drift
TURN = math.radians(20)  # within a measurement: the arm from the wheels to the camera is not known that well
TURN_APART = math.radians(8)  # rotations that differ by more are not those of one body
ALIGNED = 0.85  # cosine between the two directions of travel
STANDS = 0.2  # share of the expected way below which one of the two stands still
# Errors of one measurement: of wheels absolute (metres) and relative, and relative of the alignment.
WHEELS, WHEELS_RELATIVE, CAMERA_RELATIVE = 0.004, 0.02, 0.02
ARM = math.radians(2)  # by which the camera's mounting, and with it the arm's direction, may be off


class OdometryWays:
    """Cuts what camera and odometry went through into ways of equal length, and compares them.

    `notes` counts what is seen and is no measurement: "slip" (wheels turn, the camera stands), "lift" (the camera
    moves, the wheels stand), "turn".
    """

    def __init__(self) -> None:
        self.notes = {"slip": 0, "lift": 0, "turn": 0}
        self.restart()

    def restart(self) -> None:
        self._start: tuple[int, np.ndarray, np.ndarray] | None = None

    def add(
        self,
        stamp_ns: int,
        world_from_cam: np.ndarray,
        odom_from_cam: np.ndarray,
        camera_sigma: float,
        metres: float | None,
    ) -> Measurement | None:
        """One image whose place is known to both.

        world_from_cam, odom_from_cam: (4, 4), units and metres. camera_sigma: standard deviation of the camera's
        position, units. metres: per unit, as far as it is known. None: no measurement yet, or not from this way.
        """
        now = stamp_ns, world_from_cam, odom_from_cam
        if self._start is None or not 0 < (stamp_ns - self._start[0]) / 1e9 <= PATIENCE:
            self._start = now
            return None
        seen, driven = (np.linalg.inv(a) @ b for a, b in zip(self._start[1:], now[1:], strict=True))
        v, o = float(np.linalg.norm(seen[:3, 3])), float(np.linalg.norm(driven[:3, 3]))
        if max(_angle(seen), _angle(driven)) > TURN:
            return self._left_out("turn", now)
        if o < TRAVEL:
            if metres is not None and metres * v > 3 * TRAVEL and o < STANDS * metres * v:
                return self._left_out("lift", now)
            return None
        self._start = now
        if v < 4 * camera_sigma or (metres is not None and metres * v < STANDS * o):
            return self._left_out("slip", now)
        return self._compared(seen, driven, v, o, camera_sigma)

    def _left_out(self, note: str, now: tuple[int, np.ndarray, np.ndarray]) -> None:
        self.notes[note] += 1
        self._start = now

    def _compared(self, seen: np.ndarray, driven: np.ndarray, v: float, o: float, camera_sigma: float) -> Measurement:
        """Both in the axes of the camera at the start of the way, so that directions must agree."""
        cosine = float(seen[:3, 3] @ driven[:3, 3]) / (v * o)
        apart = _angle(np.linalg.inv(seen) @ driven)
        if cosine < ALIGNED or apart > TURN_APART:
            degrees = math.degrees(max(math.acos(max(-1.0, min(1.0, cosine))), apart))
            return Measurement(
                math.nan,
                reason=f"odometry and camera move in directions {degrees:.0f} degrees apart: check the TF between base "
                "and camera, and for wheels that slip",
            )
        sigma = math.hypot(WHEELS * math.sqrt(2) / o, WHEELS_RELATIVE, CAMERA_RELATIVE, math.sqrt(2) * camera_sigma / v)
        return Measurement(o / v, sigma)


def _angle(transform: np.ndarray) -> float:
    """Of its rotation, radians."""
    return math.acos(max(-1.0, min(1.0, (float(np.trace(transform[:3, :3])) - 1) / 2)))
