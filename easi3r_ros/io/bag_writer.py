"""Results as a rosbag2 (MCAP), as the node publishes them: same topics, types, stamps and frames. Needs no ROS."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import FrameResult
from easi3r_ros.io.manifest import Record
from easi3r_ros.io.salvage import keep_readable
from easi3r_ros.io.writers import ResultWriter, WriteError, unrecorded
from easi3r_ros.libraries import needed
from easi3r_ros.messages.conversions import time_message
from easi3r_ros.messages.message_types import Header, TFMessage
from easi3r_ros.messages.results import TOPICS, ResultMessages
from easi3r_ros.messages.stand_ins import serialize, type_name, typestore
from easi3r_ros.messages.status import BackboneInfo, Counts, Timing, status_message

with needed("rosbags"):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

NODE = "/easi3r"
MAP_FRAME = "map"
# Every path repeats its poses, which decides how fast the bag grows; /tf and odometry have the rest.
PATH_LENGTH = 100
PATH_PERIOD = 1.0  # seconds
SAVE_PERIOD = 0.5  # seconds of work that a power cut may cost


class BagWriter(ResultWriter):
    """FOLDER/FOLDER_NAME.mcap and metadata.yaml. A message is recorded at the stamp of its image."""

    def __init__(
        self,
        folder: Path,
        clouds: CloudConfig,
        backbone: BackboneInfo,
        camera_info: Callable[[], Any | None] = lambda: None,
        record: Record = unrecorded,
    ):
        """camera_info(): the CameraInfo received with the frame that is being written. Raises WriteError."""
        self._backbone, self._camera_info = backbone, camera_info
        self._folder, self._record_file = folder, record
        self._messages = ResultMessages(MAP_FRAME, PATH_LENGTH, clouds, PATH_PERIOD)
        self._stamps: dict[int, int] = {}
        self._count = 0
        self._saved = 0.0
        classes = {f"{NODE}/{name}": kind for name, kind in TOPICS.items()} | {"/tf": TFMessage}
        try:
            self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
        except WriterError as error:
            raise WriteError(str(error)) from error
        record(folder, True)
        self._record_files(complete=False)
        self._connections = {
            topic: self._writer.add_connection(topic, type_name(kind), typestore=typestore())
            for topic, kind in classes.items()
        }

    def write(self, result: FrameResult) -> None:
        frame = result.frame
        header = Header(stamp=time_message(frame.stamp_ns), frame_id=frame.frame_id)
        self._count += 1
        for name, message in self._messages.make(result, header, self._camera_info(), TOPICS.__contains__):
            self._record(f"{NODE}/{name}", frame.stamp_ns, message)
        transform = self._messages.transform(result, header)
        if transform is not None:
            self._record("/tf", frame.stamp_ns, TFMessage(transforms=[transform]))
        self._record(f"{NODE}/status", frame.stamp_ns, self._status(result, header))
        self._save()

    def _save(self) -> None:
        """Bring to the disk what was written, so that it can be read whatever happens to this process."""
        storage = getattr(self._writer, "storage", None)  # rosbags has no public way
        if storage is None or time.monotonic() < self._saved + SAVE_PERIOD or not hasattr(storage, "close_chunk"):
            return
        if storage.chunk.bio.tell():
            storage.close_chunk()
        keep_readable(storage.bio)
        self._saved = time.monotonic()

    def close(self) -> None:
        self._writer.close()
        self._record_files(complete=True)

    def _record_files(self, complete: bool) -> None:
        for path in self._folder.iterdir():  # the folder is new: what is in it, the writer made
            self._record_file(path, complete)

    def _record(self, topic: str, stamp_ns: int, message: Any) -> None:
        self._writer.write(self._connections[topic], stamp_ns, serialize(message))

    def _status(self, result: FrameResult, header: Any) -> Any:
        self._stamps[result.frame.index] = result.frame.stamp_ns
        self._stamps = {index: self._stamps[index] for index in result.window}
        # Nothing waits in a queue and no clock runs here: the work alone is the latency.
        work_ms = sum(result.latency_ms.values())
        timing = Timing(work_ms, math.nan, 1e3 / work_ms if work_ms > 0 else 0.0)
        counts = Counts(received=self._count, processed=self._count)
        return status_message(result, header, list(self._stamps.values()), self._backbone, timing, counts)
