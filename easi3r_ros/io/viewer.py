"""Results for the rerun viewer: everything that is known about a frame on one time line, as a .rrd file or shown live.

Entities:
    world                     static: which way its axes go
    world/camera              pose and pinhole of each frame that has a pose; for the others it is gone, not stale
    world/camera/image        the camera's image (JPEG), /mask (0 static, 1 moving), /depth (0: not known)
    world/trajectory/W        of the world with number W: a piece of the path per frame
    world/static/W            of every n-th frame, in that world; together they are the map
    world/dynamic/W           of each frame: what moves now
    evidence/probability      of motion; evidence/CUE: what each cue says, at the backbone's size
    status                    the tracking state and why, where it changes

Time lines: `frame`, the running number, and `stamp`, the image's, in whole nanoseconds.
Units are the world's: metres where `FrameResult.metric` or a scale says so. Poses of two worlds must not be compared.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from easi3r_ros.core.clouds import split_cloud
from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import FrameResult, PointCloud, TrackingState
from easi3r_ros.io.manifest import Record
from easi3r_ros.io.writers import ResultWriter, WriteError, in_world, unrecorded
from easi3r_ros.libraries import needed

with needed("rerun"):
    import rerun as rr
    import rerun.blueprint as rrb

VIEWERS = ("rerun", "rerun-live")
APPLICATION = "easi3r"
JPEG_QUALITY = 85
MOVING = (255, 60, 60)
PATH_COLOUR = (60, 140, 255)
CAMERA = "world/camera"
STATIC, DYNAMIC, PATH = "world/static", "world/dynamic", "world/trajectory"


def check_viewer(name: str) -> None:
    """Raises WriteError for a viewer that is not known, or that needs a display where there is none."""
    if name not in VIEWERS:
        raise WriteError(f"--viewer is '{name}', must be one of: {', '.join(VIEWERS)}")
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if name == "rerun-live" and sys.platform == "linux" and not any(os.environ.get(display) for display in displays):
        raise WriteError("--viewer rerun-live opens a window, and there is no display: --viewer rerun writes a file")


class RerunWriter(ResultWriter):
    """PATH as a rerun recording (.rrd), complete once closed; `rerun PATH` shows it. live: also in a viewer, now."""

    def __init__(
        self,
        path: Path,
        config: CloudConfig,
        level: str,
        every: int = 5,
        live: bool = False,
        record: Record = unrecorded,
    ):
        """level: as `PipelineConfig.level`. every: of how many frames one adds to the static cloud.

        Raises WriteError, and OSError where the file cannot be made.
        """
        self._path, self._config, self._every, self._record = path, config, every, record
        path.open("wb").close()  # rerun itself says nothing about a folder that is not there
        self._stream = rr.RecordingStream(APPLICATION)
        self._connect(live)
        record(path, False)
        self._stream.log("world", _axes(level), static=True)
        classes = [rr.AnnotationInfo(0, "static", (0, 0, 0, 0)), rr.AnnotationInfo(1, "moving", MOVING)]
        self._stream.log(CAMERA, rr.AnnotationContext(classes), static=True)
        self._state: tuple[TrackingState, str] | None = None
        self._before: FrameResult | None = None  # the last one with a pose
        self._placed = False

    def write(self, result: FrameResult) -> None:
        self._stream.set_time("frame", sequence=result.frame.index)
        self._stream.set_time("stamp", timestamp=np.datetime64(result.frame.stamp_ns, "ns"))
        self._write_maps(result)
        if result.state.has_pose and not result.withheld:
            self._write_place(result)
        elif self._placed:
            self._hide(result)
        if self._state != (result.state, result.reason):
            self._state = result.state, result.reason
            level = "INFO" if result.state is TrackingState.TRACKING else "WARN"
            words = f"{result.state.value}: {result.reason}" if result.reason else result.state.value
            self._stream.log("status", rr.TextLog(words, level=level))

    def close(self) -> None:
        self._stream.flush()
        self._stream.disconnect()
        self._record(self._path, True)

    def _connect(self, live: bool) -> None:
        if not live:
            self._stream.save(self._path, default_blueprint=arrangement())
            return
        try:
            rr.spawn(connect=False)
        except RuntimeError as error:
            raise WriteError(f"the viewer cannot be started ({error}): --viewer rerun writes a file") from error
        self._stream.set_sinks(rr.GrpcSink(), rr.FileSink(self._path), default_blueprint=arrangement())

    def _write_maps(self, result: FrameResult) -> None:
        image = rr.Image(result.frame.image, color_model="RGB").compress(jpeg_quality=JPEG_QUALITY)
        self._stream.log(f"{CAMERA}/image", image)
        self._stream.log(f"{CAMERA}/mask", rr.SegmentationImage(result.mask.astype(np.uint8)))
        if result.withheld:
            self._stream.log(f"{CAMERA}/depth", rr.Clear(recursive=False))
        else:
            depth = np.nan_to_num(result.depth, nan=0.0, posinf=0.0).astype(np.float32)
            self._stream.log(f"{CAMERA}/depth", rr.DepthImage(depth, meter=1.0))
        self._stream.log("evidence/probability", rr.Image(np.float32(result.probability), color_model="L"))
        for name, values in result.evidence.items():
            self._stream.log(f"evidence/{name}", rr.Image(np.float32(values), color_model="L"))

    def _write_place(self, result: FrameResult) -> None:
        pose, world, before = result.world_from_cam, result.world, self._before
        height, width = result.frame.image.shape[:2]
        self._stream.log(CAMERA, rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        pinhole = rr.Pinhole(image_from_camera=result.K, resolution=(width, height), camera_xyz=rr.ViewCoordinates.RDF)
        self._stream.log(CAMERA, pinhole)
        static, dynamic = (in_world(cloud, pose) for cloud in split_cloud(result, self._config))
        if before is not None and before.world == world:
            step = [before.world_from_cam[:3, 3], pose[:3, 3]]
            self._stream.log(f"{PATH}/{world}", rr.LineStrips3D([step], colors=[PATH_COLOUR]))
        elif before is not None:
            self._stream.log(f"{DYNAMIC}/{before.world}", rr.Clear(recursive=False))
        if result.frame.index % self._every == 0:
            self._stream.log(f"{STATIC}/{world}", _points(static))
        self._stream.log(f"{DYNAMIC}/{world}", _points(dynamic))
        self._before, self._placed = result, True

    def _hide(self, result: FrameResult) -> None:
        """What the last frame showed is no longer known."""
        self._stream.log(CAMERA, rr.Clear(recursive=False))
        self._stream.log(f"{DYNAMIC}/{self._before.world}", rr.Clear(recursive=False))
        self._placed = False


def arrangement() -> Any:
    """The world on the left, where path and map grow; what the camera sees on the right."""
    from_start = rrb.VisibleTimeRanges(
        [
            rrb.VisibleTimeRange(
                line, start=rrb.TimeRangeBoundary.infinite(), end=rrb.TimeRangeBoundary.cursor_relative()
            )
            for line in ("frame", "stamp")
        ]
    )
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Spatial3DView(
                origin="world", contents=["$origin/**", f"- {STATIC}/**", f"- {CAMERA}/depth"], name="now"
            ),
            rrb.Spatial3DView(
                origin="world", contents=[f"{STATIC}/**", f"{PATH}/**"], name="map so far", time_ranges=from_start
            ),
            rrb.Grid(
                rrb.Spatial2DView(origin=CAMERA, contents=[f"{CAMERA}/image", f"{CAMERA}/mask"], name="mask"),
                rrb.Spatial2DView(origin=f"{CAMERA}/depth", name="depth"),
                rrb.Spatial2DView(origin="evidence", name="evidence"),
                rrb.TextLogView(origin="status", name="status"),
            ),
        ),
        collapse_panels=True,
    )


def _axes(level: str) -> Any:
    """REP-103: z up; a world that was not levelled has the axes of its first camera."""
    return rr.ViewCoordinates.RDF if level == "none" else rr.ViewCoordinates.RIGHT_HAND_Z_UP


def _points(cloud: PointCloud) -> Any:
    return rr.Points3D(cloud.xyz, colors=cloud.rgb)
