"""Frames of an image topic of a rosbag2, with the intrinsics of the camera_info beside it."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from easi3r_ros.core.types import Frame
from easi3r_ros.io.salvage import StorageFile, storage_suffix
from easi3r_ros.io.sources import CameraProperties, Damage, FrameSource, SourceError
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
    reader = _opened([path] if (path / "metadata.yaml").exists() else _storage_files(path), path)
    if not reader.message_count:
        reader.close()
        if breaks_off(reader):
            raise _damaged(path, ValueError("no message is complete"))
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


def _opened(parts: Sequence[Any], path: Path) -> AnyReader:
    """Raises SourceError."""
    try:
        # Old sqlite3 bags carry no message definitions.
        reader = AnyReader(parts, default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except Exception as error:  # struct, sqlite3, yaml and zstd errors pass through rosbags as they are
        if parts == [path] and path.is_dir():  # metadata.yaml may be what is wrong: the files know all that matters
            try:
                return _opened(_storage_files(path), path)
            except SourceError:
                pass
        raise _damaged(path, error) from error
    for part in parts:
        if not getattr(part, "complete", True):
            log.warning("'%s' has no end, its recorder was killed: what was written until then is read", part)
    return reader


def breaks_off(reader: AnyReader) -> bool:
    """Whether one of the files has no end."""
    return not all(getattr(part, "complete", True) for part in reader.paths)


def _storage_files(path: Path) -> list[StorageFile]:
    """Those of a folder, or the file itself; known by their content, whatever their names and metadata.yaml say."""
    files = [path] if path.is_file() else sorted(item for item in path.iterdir() if item.is_file())
    try:
        found = [StorageFile(file) for file in files if path.is_file() or storage_suffix(file)]
    except OSError as error:
        raise SourceError(f"'{path}' cannot be read: {error.strerror}") from error
    if not found:
        raise SourceError(f"'{path}' has no storage files (*.mcap, *.db3): where is the recording itself?")
    return found


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

    def __init__(self, path: Path, topic: str | None = None, camera: CameraProperties | None = None):
        """camera: counts instead of the camera_info in the bag. Raises SourceError."""
        self.path, self._given = path, camera
        self._camera_info: Any | None = None
        self._reader = open_bag(path)
        self._closed = False
        self._warned_of_info = False
        try:
            topics = self._reader.topics
            self.topic = self._choose_images(topics, topic)
            self._images = topics[self.topic]
            self._info = [] if camera else _camera_info_beside(self.topic, topics)
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
        for connection, time_ns, raw in self._until_damage(damage):
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
            K = self._given.checked_K(image) if self._given else K
            stamp = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
            frame = Frame(index, stamp, tf_name(header.frame_id), image, K)
            yield frame if camera.lens is None else camera.lens.frame(frame)
        if breaks_off(self._reader):
            damage.break_off("it has no end")
        damage.end()

    def _until_damage(self, damage: Damage) -> Iterator[tuple[Connection, int, bytes]]:
        """Images and camera_info; where the rest cannot be read, it ends, unless nothing could be read at all."""
        try:
            yield from read_messages(self._reader, self.path, self._images.connections + self._info)
        except SourceError as error:
            if not damage.given:
                raise
            damage.break_off(error)

    def _choose_images(self, topics: dict[str, TopicInfo], wanted: str | None) -> str:
        table, path = topic_table(topics), self.path
        images = [name for name, info in topics.items() if info.msgtype in DECODERS]
        if wanted is not None:
            if wanted not in topics:
                raise SourceError(f"'{path}' has no topic '{wanted}'; its topics:\n{table}")
            if wanted not in images:
                text = f"'{wanted}' in '{path}' is {topics[wanted].msgtype}, not an image; its topics:\n{table}"
                raise SourceError(text)
            return wanted
        if not images:
            text = f"'{path}' has no image topic (sensor_msgs Image or CompressedImage); its topics:\n{table}"
            raise SourceError(text)
        with_messages = [name for name in images if topics[name].msgcount] or images
        usable = [name for name in with_messages if self._is_camera(topics[name])] or with_messages
        if len(usable) > 1:
            raise SourceError(f"'{path}' has {len(usable)} image topics: choose one with --topic NAME:\n{table}")
        if len(images) > 1:
            log.warning(
                "'%s': of %d image topics, '%s' is the one with pictures of a camera", path, len(images), usable[0]
            )
        return usable[0]

    def _is_camera(self, info: TopicInfo) -> bool:
        """Whether the first message shows colours or grey, not depth."""
        for connection, _, raw in read_messages(self._reader, self.path, info.connections):
            try:
                DECODERS[connection.msgtype](ImageReader(), self._deserialize(raw, connection))
            except ConversionError:
                return False
            return True
        return False

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


def _camera_info_beside(image_topic: str, topics: dict[str, TopicInfo]) -> list[Connection]:
    """By the convention of image_transport and image_pipeline: camera_info in the namespace of the (raw) image."""
    base = image_topic.removesuffix("/compressed")
    for name in (f"{base.rpartition('/')[0]}/camera_info", f"{base}/camera_info"):
        if name in topics and topics[name].msgtype == CAMERA_INFO:
            return topics[name].connections
    return []
