"""Every result into `map`, in order: level at the start of a world, metres as soon as they are sure."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from easi3r_ros.core.config import ConfigError, PipelineConfig, ScaleConfig
from easi3r_ros.core.types import FrameResult, Scale, ScaleState
from easi3r_ros.mapping import depth_scale, ground, odometry_scale
from easi3r_ros.mapping.level import Leveller, Upright
from easi3r_ros.mapping.map_frame import MapFrame
from easi3r_ros.mapping.odometry_scale import OdometryWays
from easi3r_ros.mapping.scale import LockRule, Measurement, ScaleEstimator
from easi3r_ros.mapping.tf_tree import Waiting

log = logging.getLogger(__name__)

SETTLED_EVERY = 5  # frames between measurements, once metres are locked and the last one agreed
SETTLED = 0.04  # relative: how well
# What a camera that is only taken for level may be tilted by, and one whose tilt was measured, in radians.
TILT_ASSUMED, TILT_MEASURED = math.radians(30), math.radians(8)
WAIT = 1.0  # seconds for the transform at an image's stamp


class ScaleSource(Protocol):
    """Who measures metres. Results are those of the alignment, in its units."""

    rule: LockRule
    waiting_for: str

    def measure(self, result: FrameResult, up: np.ndarray, scale: Scale) -> Iterable[Measurement]:
        """up: (3,) in the optical axes of the result. scale: as far as it is known."""

    def restart(self) -> None:
        """A new world."""


class UprightSource:
    """Who knows where up is; this one does not."""

    def ask(self, result: FrameResult) -> Upright | str:
        """About one image; text: why it is not known, for a person."""
        return ""

    def restart(self) -> None:
        """A new world."""


class _EveryImage(ABC):
    """Measures each image, or a few of them once there is nothing new to be learned."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new world."""
        self._count, self._settled = 0, False

    def measure(self, result: FrameResult, up: np.ndarray, scale: Scale) -> Iterable[Measurement]:
        """As ScaleSource."""
        self._count += 1
        if self._settled and scale.state is ScaleState.LOCKED and self._count % SETTLED_EVERY:
            return
        found = self._measured(result, up)
        if found is not None:
            self._settled = bool(abs(found.metres / scale.metres - 1) < SETTLED)
            yield found

    @abstractmethod
    def _measured(self, result: FrameResult, up: np.ndarray) -> Measurement | None:
        """What one image says; None: nothing."""


class FromDepth(_EveryImage):
    """A depth image of the same time."""

    rule = depth_scale.RULE
    waiting_for = "waiting for depth images on `depth` that belong to the camera's"

    def __init__(self, depth_at: Callable[[FrameResult], np.ndarray | None]):
        """depth_at(result): (h, w) metres of the depth image that belongs to it; None: there is none."""
        super().__init__()
        self._depth_at = depth_at

    def _measured(self, result: FrameResult, up: np.ndarray) -> Measurement | None:
        metres = self._depth_at(result)
        return None if metres is None else depth_scale.depth_ratio(result.as_received, metres)


class FromHeight(_EveryImage):
    """The ground, at a known distance below the camera."""

    rule = ground.RULE
    waiting_for = "waiting for flat ground in sight"

    def __init__(self, metres: float, tilt: float):
        super().__init__()
        self._metres, self._tilt = metres, tilt

    def _measured(self, result: FrameResult, up: np.ndarray) -> Measurement | None:
        return ground.height_ratio(result, up, self._tilt, self._metres)


class FromOdometry:
    """How far the robot says that it went."""

    rule = odometry_scale.RULE
    waiting_for = "waiting for the robot to drive straight, some 0.15 m at a time"

    def __init__(self, odom_from_cam: Callable[[FrameResult, bool], np.ndarray], clock: Callable[[], float]):
        """odom_from_cam(result, last): (4, 4) at the result's stamp; raises TransformError. clock: seconds."""
        self._lookup, self._clock = odom_from_cam, clock
        self._waiting: Waiting[FrameResult] = Waiting(WAIT)
        self.ways = OdometryWays()

    def measure(self, result: FrameResult, up: np.ndarray, scale: Scale) -> Iterable[Measurement]:
        now, metres = self._clock(), None if math.isnan(scale.metres) else scale.metres
        # Without its maps, which the queue would keep alive.
        self._waiting.add(result.changed(mask=None, probability=None, depth=None, confidence=None, evidence={}), now)
        for done, odom_from_cam in self._waiting.resolve(self._lookup, now):
            sigma = math.sqrt(max(float(np.trace(done.covariance[:3, :3])), 0.0) / 3)
            found = self.ways.add(done.frame.stamp_ns, done.world_from_cam, odom_from_cam, sigma, metres)
            if found is not None:
                yield found
        self.waiting_for = self._waiting.why if self._waiting.given_up else type(self).waiting_for

    def restart(self) -> None:
        self._waiting.clear()
        self.ways.restart()


def resolved_source(config: ScaleConfig, metric: bool, tf_mode: str = "none") -> str:
    """`scale.source` without auto. Raises ConfigError where that source cannot work."""
    source = config.source
    if source == "auto":
        source = "checkpoint" if metric else "odometry" if tf_mode == "map_to_odom" else "none"
    if source == "checkpoint" and not metric:
        raise ConfigError(
            "'scale.source' is checkpoint, but this backbone knows no metres: set backbone.checkpoint to a metric one "
            "(`easi3r weights`), or scale.source to odometry, depth, camera_height or none"
        )
    if source == "camera_height" and not config.camera_height > 0:
        raise ConfigError(
            "'scale.source' is camera_height: set scale.camera_height, metres from the ground to the camera"
        )
    return source


class Placing:
    """Results into `map`, one after the other. Not thread-safe."""

    def __init__(
        self,
        level: str,
        source: str,
        config: ScaleConfig,
        measured_by: ScaleSource | None = None,
        upright: UprightSource | None = None,
        warn: Callable[[str], None] = log.warning,
    ):
        """level, source: as `PipelineConfig.level` and `resolved_source`. measured_by: for depth and odometry.

        upright: asked, for level imu and tf, about images until there is a pose. warn(text): for a person.
        """
        self._level, self._source, self._config = level, source, config
        self._upright, self._warn = upright or UprightSource(), warn
        if source == "camera_height":
            measured_by = FromHeight(
                config.camera_height, TILT_ASSUMED if level in ("camera", "none") else TILT_MEASURED
            )
        self._measured_by = measured_by
        self._estimator = (
            ScaleEstimator(source, measured_by.rule, measured_by.waiting_for) if measured_by is not None else None
        )
        self._frame = MapFrame()
        self.restart()

    def restart(self) -> None:
        """The next result is the first of a new stream."""
        self._frame.restart()
        self._leveller = Leveller(self._level)
        self._upright.restart()
        self._world = 0
        self._new_unit()

    def place(self, result: FrameResult) -> FrameResult:
        """The result in `map`, with what is known about metres in `scale`."""
        self._find_level(result)
        if result.world != self._world:
            self._world = result.world
            self._new_unit("a new world started, which has another unit")
        return self._frame.place(result, self._scale(result))

    def _new_unit(self, why: str = "") -> None:
        if self._estimator is not None:
            self._measured_by.restart()
            self._estimator.restart(why)
        if self._source == "fixed":
            self._warn(
                f"scale.source is fixed: one unit counts as {self._config.metres_per_unit:g} m. Unless the backbone is "
                "metric, each start has another unit, and this is right only where it was measured for the same images"
            )

    def _find_level(self, result: FrameResult) -> None:
        if self._frame.level is not None:
            return
        if self._leveller.needs:
            upright = self._upright.ask(result)
            if isinstance(upright, Upright):
                self._leveller.see(result.world_from_cam, upright)
            else:
                self._leveller.why_blind = upright
            if not result.state.has_pose:
                return
        level, problem = self._leveller.decide()
        if problem:
            self._warn(f"level is {self._level}: {problem}")
        self._frame.set_level(level, metric=self._source != "none")

    def _scale(self, result: FrameResult) -> Scale:
        if self._source == "fixed":
            return Scale("fixed", ScaleState.LOCKED, self._config.metres_per_unit)
        if self._estimator is None:
            return Scale(self._source, ScaleState.LOCKED if result.metric else ScaleState.ARBITRARY)
        self._estimator.frame_passed()
        if result.state.has_pose:
            up = result.world_from_cam[:3, :3].T @ self._frame.level.rotation.T @ np.array([0.0, 0.0, 1.0])
            if self._level == "none":
                up = np.array([0.0, -1.0, 0.0])
            for measurement in self._measured_by.measure(result, up, self._estimator.scale):
                change = self._estimator.add(measurement)
                if change:
                    (log.info if self._estimator.locked else self._warn)(change)
        self._estimator.waiting_for = self._measured_by.waiting_for
        return self._estimator.scale


def offline_placing(config: PipelineConfig, metric: bool) -> Placing:
    """For recordings, where there is nothing but images. Raises ConfigError for what needs more."""
    if config.level in ("imu", "tf"):
        raise ConfigError(f"'level' is {config.level}, which only the node can do: choose camera or none")
    source = resolved_source(config.scale, metric)
    if source in ("odometry", "depth"):
        raise ConfigError(
            f"'scale.source' is {source}, which only the node can do: play the bag to the node, or choose camera_height"
        )
    return Placing(config.level, source, config.scale)
