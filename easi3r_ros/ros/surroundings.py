"""What moves around the camera and what stays: followed from image to image, published, and saved on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.types import FrameResult
from easi3r_ros.mapping.map_files import MapFileError, save_cloud
from easi3r_ros.mapping.tracks import ObjectTracker
from easi3r_ros.mapping.voxel_map import VoxelMap
from easi3r_ros.messages.conversions import time_message
from easi3r_ros.messages.message_types import Header, PointCloud2
from easi3r_ros.messages.objects import OBJECT_TOPICS, instances_message, no_markers, object_messages
from easi3r_ros.messages.ros_libraries import point_cloud

MAP_TOPICS = {"map": PointCloud2}
SAME_UNIT = 0.1  # relative change of the metres per unit, as they become known better, that a map survives


@dataclass(frozen=True)
class _Unit:
    """What lengths can be compared in."""

    world: int
    metric: bool
    metres: float  # per unit of the alignment

    def is_comparable(self, other: _Unit) -> bool:
        same = self.world == other.world and self.metric == other.metric
        return same and (not self.metric or abs(other.metres / self.metres - 1) <= SAME_UNIT)


class Surroundings:
    """Objects and map. Fed by one thread; `save` may be called by any.

    wanted(name): whether anybody listens; send(name, message): names of OBJECT_TOPICS and MAP_TOPICS. warn(text): for a
    person. Nothing is followed for nobody: without `map.enabled`, the map begins with its first subscriber.
    """

    def __init__(
        self,
        map_frame: str,
        config: PipelineConfig,
        wanted: Callable[[str], bool],
        send: Callable[[str, Any], None],
        warn: Callable[[str], None],
    ):
        self._frame, self._wanted, self._send, self._warn = map_frame, wanted, send, warn
        self._config = config
        self._tracker = ObjectTracker(config.objects, config.clouds)
        self._map = VoxelMap(config.map, config.clouds.min_confidence)
        self._followed = False  # whether the tracker knows the image before
        self._unit: _Unit | None = None  # of the last place that was known
        self._sent_ns: int | None = None
        self._header = Header(frame_id=map_frame)
        self._full = False  # whether somebody was told

    def reconfigure(self, config: PipelineConfig) -> None:
        """Apply changed live settings."""
        self._config = config
        self._tracker.reconfigure(config.objects, config.clouds)

    def restart(self) -> None:
        """A new world: what was said about the old one does not belong to it."""
        self._tracker.restart()
        self._followed, self._unit = False, None
        self._forget_map()
        self._take_back()

    def publish(self, result: FrameResult, header: Header, ignored: np.ndarray | None) -> None:
        """header: of the image. ignored: (H, W) bool, the robot's own body, which is no object."""
        placed = result.state.has_pose and not result.withheld
        in_map = Header(stamp=header.stamp, frame_id=self._frame)
        if placed:
            self._header = in_map
            self._watch_unit(result)
        self._objects(result, header, in_map, placed, ignored)
        self._update_map(result, in_map, placed)

    def save(self, path: str, overwrite: bool) -> tuple[bool, str, Path | None, int]:
        """Write the map into a file: (done, words for a person, where, number of points). Never raises MapFileError."""
        cloud = self._map.points()
        if not len(cloud.xyz):
            kept = self._config.map.enabled or self._wanted("map")
            hint = "wait until the camera has a pose" if kept else "subscribe to ~/map, or set map.enabled"
            return False, f"there is no map yet, so nothing was written: {hint}", None, 0
        metric = self._unit is not None and self._unit.metric
        unit = "metres" if metric else "an unknown length, see scale_state in ~/status"
        try:
            target = save_cloud(cloud, path, overwrite, f"frame {self._frame}, unit: {unit}")
        except MapFileError as error:
            return False, str(error), None, 0
        return True, f"{len(cloud.xyz)} points written to '{target}'; unit: {unit}", target, len(cloud.xyz)

    def _watch_unit(self, result: FrameResult) -> None:
        unit = _Unit(result.world, result.metric, result.scale.metres)
        if self._unit is None or self._unit.is_comparable(unit):
            self._unit = self._unit or unit
            return
        before, self._unit = self._unit, unit
        self._tracker.lose_places()
        if len(self._map):
            why = "a new world was begun" if before.world != unit.world else "the unit of lengths changed"
            self._warn(f"~/map starts again: {why}, and what was in it cannot be compared")
            self._forget_map()

    def _objects(
        self, result: FrameResult, header: Header, in_map: Header, placed: bool, ignored: np.ndarray | None
    ) -> None:
        if not any(self._wanted(name) for name in OBJECT_TOPICS):
            if self._followed:
                self._tracker.restart()
            self._followed = False
            return
        self._followed = True
        with _timed(result, "objects"):
            objects, ids = self._tracker.update(result, ignored, placed)
        if self._wanted("instances"):
            seen = result.frame.received
            ids = ids if seen is None else seen.restore(ids, 0, False)
            self._send("instances", instances_message(ids, header))
        if placed:  # nothing is said about places that are not known
            for name, message in object_messages(objects, in_map, result.metric, self._wanted):
                self._send(name, message)

    def _update_map(self, result: FrameResult, in_map: Header, placed: bool) -> None:
        if not placed or not (self._config.map.enabled or self._wanted("map")):
            return
        with _timed(result, "map"):
            self._map.add(result)
            if self._map.overflowed and not self._full:
                self._full = True
                self._warn(
                    f"~/map is full ({self._config.map.max_voxels} cells): what was seen longest ago makes room; "
                    "set map.voxel_size or map.max_voxels higher"
                )
            self._send_map(result.frame.stamp_ns)

    def _send_map(self, stamp_ns: int) -> None:
        due = self._sent_ns is None or not 0 <= stamp_ns - self._sent_ns < self._config.map.period * 1e9
        if not due:
            return
        cloud = self._map.points()
        if len(cloud.xyz):
            self._sent_ns = stamp_ns
            header = Header(stamp=time_message(stamp_ns), frame_id=self._frame)
            self._send("map", point_cloud(cloud, header))

    def _forget_map(self) -> None:
        self._map.restart()
        self._full = False
        if self._sent_ns is not None:  # else who comes late is given that of the world before
            self._sent_ns = None
            self._send("map", point_cloud(self._map.points(), self._header))

    def _take_back(self) -> None:
        if self._wanted("objects/markers"):
            self._send("objects/markers", no_markers(self._header))


@contextmanager
def _timed(result: FrameResult, stage: str):
    """Its wall time becomes one of the result's stages."""
    start = time.perf_counter()
    try:
        yield
    finally:
        result.latency_ms[stage] = (time.perf_counter() - start) * 1e3
