"""Results from the alignment's world into `map`: turned upright, and in metres where they are known.

The one place where that happens, for the node and for recordings alike: whatever comes after it is in `map`.
"""

from __future__ import annotations

import numpy as np

from easi3r_ros.core.types import Deferred, FrameResult, Scale, ScaleState
from easi3r_ros.mapping.level import Level

_UNKNOWN = 1e5  # of a variance, from which on it says that nothing is known: not to be scaled


class MapFrame:
    """x_map = origin_map + metres * R * (x_world - origin_world), where the origins move when metres or world change.

    So a better scale changes lengths from then on and never moves what was said, and neither does a new world, which
    starts at the last known pose.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything: the next result is the first of a world."""
        self.level: Level | None = None
        self._metres = 1.0
        self._origin_world, self._origin_map = np.zeros(3), np.zeros(3)
        self._world = 0
        self._said = False  # whether a pose went out with the present origins and metres

    def set_level(self, level: Level, metric: bool) -> None:
        """Before the first pose. metric: lengths are, or will be, metres, so that level.position means something."""
        self.level = level
        if level.position is not None and metric:
            self._origin_map = level.position.copy()

    def place(self, result: FrameResult, scale: Scale) -> FrameResult:
        """A result in `map`. Until there is a level its axes and its unit are the alignment's.

        scale: what is known about metres now; LOCKED, it is applied.
        """
        locked = scale.state is ScaleState.LOCKED
        if self.level is None:
            return result.changed(scale=scale, metric=locked)
        position = result.world_from_cam[:3, 3]
        if result.world != self._world:
            self._rebase(position)
            self._world = result.world
        if locked and scale.metres != self._metres:
            if self._said:
                self._rebase(position)
            self._metres = scale.metres
        metres = self._metres if locked else 1.0
        if result.state.has_pose and scale.state is not ScaleState.UNLOCKED:
            self._said = True
        changes = {} if metres == 1.0 else {"depth": Deferred(lambda: result.depth * np.float32(metres))}
        return result.changed(
            scale=scale,
            metric=locked,
            world_from_cam=self._pose(result.world_from_cam),
            covariance=moved_covariance(result.covariance, self.level.rotation, metres),
            **changes,
        )

    def _pose(self, world_from_cam: np.ndarray) -> np.ndarray:
        """(4, 4) map_from_cam."""
        out = np.eye(4)
        out[:3, :3] = self.level.rotation @ world_from_cam[:3, :3]
        out[:3, 3] = self._to_map(world_from_cam[:3, 3])
        return out

    def _to_map(self, position: np.ndarray) -> np.ndarray:
        return self._origin_map + self._metres * self.level.rotation @ (position - self._origin_world)

    def _rebase(self, position: np.ndarray) -> None:
        """From now on lengths are measured from a position in the world, which keeps its place in map."""
        self._origin_map, self._origin_world = self._to_map(position), position.copy()
        self._said = False


def moved_covariance(covariance: np.ndarray, rotation: np.ndarray, metres: float) -> np.ndarray:
    """(6, 6) of (position, rotation) in the axes of `rotation` @ before, positions times `metres`.

    What says that nothing is known stays so, whatever the unit.
    """
    factor = metres if np.diag(covariance)[:3].max() < _UNKNOWN else max(metres, 1.0)
    axes = np.kron(np.diag([factor, 1.0]), rotation)  # (6, 6)
    return axes @ covariance @ axes.T
