"""Frames of an image topic of a rosbag2, with the intrinsics of the camera_info beside it."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Collection, Iterator, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from easi3r_ros.core.types import Frame
from easi3r_ros.io.sources import BAG_SUFFIXES, Damage, FrameSource, SourceError
from easi3r_ros.libraries import needed
from easi3r_ros.messages.bit_depth import ImageReader
from easi3r_ros.messages.calibration import CameraModel
from easi3r_ros.messages.images import ConversionError
from easi3r_ros.messages.plausible import tf_name

with needed("rosbags"):
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection, TopicInfo
    from rosbags.typesys import Stores, get_typestore


def open_bag(path: Path) -> AnyReader:
    """An opened reader of a rosbag2 folder, .mcap or .db3; the caller closes it. Raises SourceError."""
    if path.suffix == ".bag":
        raise SourceError(f"'{path}' is a ROS 1 bag: convert it with rosbags-convert --src '{path}' --dst NEW_FOLDER")
    # Old sqlite3 bags carry no message definitions.
    reader = AnyReader([_readable_part(path)], default_typestore=get_typestore(Stores.ROS2_JAZZY))
    try:
        reader.open()
    except Exception as error:  # struct, sqlite3, yaml and zstd errors pass through rosbags as they are
        raise _damaged(path, error) from error
    if not reader.message_count:
        reader.close()
        raise SourceError(f"'{path}' is an empty bag: it holds no messages")
    return reader


def read_messages(
    reader: AnyReader, path: Path, connections: Collection[Connection]
) -> Iterator[tuple[Connection, int, bytes]]:
    """(connection, time of recording in ns, CDR bytes) in order of recording. Raises SourceError."""
    messages = reader.messages(connections=connections)
    while True:
        try:
            item = next(messages)
        except StopIteration:
            return
        except Exception as error:  # as in open_bag
            raise _damaged(path, error) from error
        yield item


def topic_table(topics: Mapping[str, TopicInfo]) -> str:
    """One line per topic for a message to a person: name, type, number of messages."""
    width = max(map(len, topics))
    return "\n".join(f"  {name:<{width}}  {info.msgtype}  ({info.msgcount} messages)" for name, info in topics.items())


def _readable_part(path: Path) -> Path:
    """The folder, or the storage file in a folder whose metadata.yaml was never written (recorder killed)."""
    if path.is_file() or (path / "metadata.yaml").exists():
        return path
    files = sorted(item for item in path.iterdir() if item.suffix in BAG_SUFFIXES and not item.name.startswith("."))
    if len(files) == 1:
        return files[0]
    raise SourceError(f"'{path}' has {len(files)} storage files and no metadata.yaml: run ros2 bag reindex '{path}'")


def _damaged(path: Path, error: Exception) -> SourceError:
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return SourceError(
        f"'{path}' is damaged, truncated, or was not closed by its recorder ({reason}). "
        f"Try to repair it: ros2 bag reindex FOLDER, or mcap recover FILE.mcap -o NEW.mcap"
    )


log = logging.getLogger(__name__)

DECODERS = {"sensor_msgs/msg/Image": ImageReader.raw, "sensor_msgs/msg/CompressedImage": ImageReader.compressed}
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"


class BagSource(FrameSource):
    """Stamps and frame_id are those of the image headers; images come in the order of recording."""

    def __init__(self, path: Path, topic: str | None = None):
        self.path = path
        self._camera_info: Any | None = None
        self._reader = open_bag(path)
        self._closed = False
        self._warned_of_info = False
        try:
            topics = self._reader.topics
            self.topic = _choose_images(topics, topic, path, topic_table(topics))
            self._images = topics[self.topic]
            self._info = _camera_info_beside(self.topic, topics)
            self._rate = self._measure_rate()
        except SourceError:
            self.close()
            raise
        self._topics = {name: info.msgtype or "several types" for name, info in topics.items()}

    @property
    def length(self) -> int:
        return self._images.msgcount

    @property
    def rate(self) -> float | None:
        return self._rate

    @property
    def topics(self) -> dict[str, str]:
        return dict(self._topics)

    @property
    def camera_info(self) -> Any | None:
        return self._camera_info

    def __iter__(self) -> Iterator[Frame]:
        camera = CameraModel("rect" in self.topic, log.warning)
        self._prime(camera)
        reader, damage, index = ImageReader(), Damage(self), -1
        for connection, time_ns, raw in read_messages(self._reader, self.path, self._images.connections + self._info):
            if connection.msgtype == CAMERA_INFO:
                self._update(camera, raw, connection)
                continue
            index += 1
            try:
                message = self._deserialize(raw, connection)
                image = DECODERS[connection.msgtype](reader, message)
            except ConversionError as error:
                damage.leave_out(f"'{self.path}', {self.topic}, image {index} (recorded at {time_ns} ns)", error)
                continue
            damage.gave()
            header = message.header
            self._camera_info, K = camera.matching((image.shape[1], image.shape[0]), header.frame_id)
            stamp = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
            yield Frame(index, stamp, tf_name(header.frame_id), image, K)
        damage.end()

    def close(self) -> None:
        if not self._closed:
            self._reader.close()
        self._closed = True

    def _prime(self, camera: CameraModel) -> None:
        """The first image may be recorded before the camera_info that belongs to it."""
        for connection, _, raw in read_messages(self._reader, self.path, self._info) if self._info else ():
            self._update(camera, raw, connection)
            return

    def _update(self, camera: CameraModel, raw: bytes, connection: Connection) -> None:
        """A damaged camera_info changes nothing: the one before it counts on."""
        try:
            camera.update(self._deserialize(raw, connection))
        except ConversionError as error:
            if not self._warned_of_info:
                log.warning("'%s', %s: %s; the one before it is used", self.path, connection.topic, error)
            self._warned_of_info = True

    def _deserialize(self, raw: bytes, connection: Connection) -> Any:
        """Raises ConversionError."""
        try:
            return self._reader.deserialize(raw, connection.msgtype)
        except Exception as error:  # damaged CDR fails in rosbags' generated code with whatever error comes first
            raise ConversionError(f"the message is damaged ({error})") from error

    def _measure_rate(self) -> float | None:
        """Frames per second of the first two seconds or so; the median forgives a gap."""
        messages = islice(read_messages(self._reader, self.path, self._images.connections), 60)
        gaps = [b - a for a, b in pairwise(time for _, time, _ in messages)]
        median = statistics.median(gaps) if gaps else 0
        return 1e9 / median if median > 0 else None


def _choose_images(topics: dict[str, TopicInfo], wanted: str | None, path: Path, table: str) -> str:
    images = [name for name, info in topics.items() if info.msgtype in DECODERS]
    if wanted is not None:
        if wanted not in topics:
            raise SourceError(f"'{path}' has no topic '{wanted}'; its topics:\n{table}")
        if wanted not in images:
            raise SourceError(f"'{wanted}' in '{path}' is {topics[wanted].msgtype}, not an image; its topics:\n{table}")
        return wanted
    if not images:
        raise SourceError(f"'{path}' has no image topic (sensor_msgs Image or CompressedImage); its topics:\n{table}")
    if len(images) > 1:
        raise SourceError(f"'{path}' has {len(images)} image topics: choose one with --topic NAME:\n{table}")
    return images[0]


def _camera_info_beside(image_topic: str, topics: dict[str, TopicInfo]) -> list[Connection]:
    """By the convention of image_transport and image_pipeline: camera_info in the namespace of the (raw) image."""
    base = image_topic.removesuffix("/compressed")
    for name in (f"{base.rpartition('/')[0]}/camera_info", f"{base}/camera_info"):
        if name in topics and topics[name].msgtype == CAMERA_INFO:
            return topics[name].connections
    return []
