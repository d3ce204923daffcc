"""What a player publishes: the messages of a bag as they were recorded, or the frames of a video as camera messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path

from easi3r_ros.io.bag_source import open_bag, read_messages, topic_table
from easi3r_ros.io.opener import is_bag, open_source, opener_of
from easi3r_ros.io.sources import FrameSource, Losses, SourceError
from easi3r_ros.libraries import needed
from easi3r_ros.messages.conversions import camera_info_message, image_message, time_message
from easi3r_ros.messages.message_types import CameraInfo, Header, Image
from easi3r_ros.messages.schedule import TimedMessage
from easi3r_ros.messages.stand_ins import serialize, type_name

with needed("rosbags"):
    from rosbags.interfaces import QosDurability

# Over so many frames; to be called after each.
Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]


@contextmanager
def silently(total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


def open_playback(
    path: Path,
    topics: Collection[str] = (),
    rate: float | None = None,
    camera_info: Path | None = None,
    progress: Progress = silently,
) -> BagMessages | FrameMessages:
    """What to play of a bag (all topics, or those named), a video, an image folder or a rendered clip.

    A rendered clip is rendered here, which takes up to a minute: progress shows it. Raises SourceError.
    """
    if opener_of(path) is None and is_bag(path):
        if rate is not None or camera_info is not None:
            raise SourceError("a bag has its own stamps and camera_info: leave out the frame rate and the calibration")
        return BagMessages(path, topics)
    if topics:
        raise SourceError(f"'{path}' is no bag: it has no topics to choose")
    source = open_source(path, rate=rate, camera_info=camera_info)
    if source.made_on_demand:
        with progress(source.length) as advance:
            source.prepare(advance)
    return FrameMessages(source)


class BagMessages:
    """The messages of a bag, of all topics or the chosen ones; can be iterated again. A context manager."""

    losses = Losses()  # bytes are passed on as they are

    def __init__(self, path: Path, topics: Collection[str] = ()):
        """Raises SourceError."""
        self._path = path
        self._reader = open_bag(path)
        recorded = self._reader.topics
        for topic in topics:
            if topic not in recorded:
                self._reader.close()
                raise SourceError(f"'{path}' has no topic '{topic}'; its topics:\n{topic_table(recorded)}")
        self._connections = [c for c in self._reader.connections if not topics or c.topic in topics]

    @property
    def topics(self) -> dict[str, str]:
        return {connection.topic: connection.msgtype for connection in self._connections}

    @property
    def latched(self) -> set[str]:
        """Topics whose last message is kept for whoever comes later, such as /tf_static."""
        return {
            connection.topic
            for connection in self._connections
            for qos in connection.ext.offered_qos_profiles
            if qos.durability == QosDurability.TRANSIENT_LOCAL
        }

    def __iter__(self) -> Iterator[TimedMessage]:
        for connection, time_ns, raw in read_messages(self._reader, self._path, self._connections):
            yield TimedMessage(connection.topic, time_ns, bytes(raw))

    def __enter__(self) -> BagMessages:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()


class FrameMessages:
    """The frames of a video or an image folder as `image` (rgb8), with `camera_info` where the camera is calibrated.

    Stamps begin with the time at which this is made: what starts at zero would lie decades in the past.
    """

    latched: Collection[str] = ()

    @property
    def losses(self) -> Losses:
        return self._source.losses

    def __init__(self, source: FrameSource):
        self._source = source
        self._start_ns = time.time_ns()
        # A camera_info topic on which nothing comes would make others wait for it.
        self._calibrated = any(frame.K is not None for frame in islice(source, 1))

    @property
    def topics(self) -> dict[str, str]:
        return {"image": type_name(Image)} | ({"camera_info": type_name(CameraInfo)} if self._calibrated else {})

    def __iter__(self) -> Iterator[TimedMessage]:
        first = None
        for frame in self._source:
            first = frame.stamp_ns if first is None else first  # names may say times of long ago
            stamp = self._start_ns + frame.stamp_ns - first
            header = Header(stamp=time_message(stamp), frame_id=frame.frame_id)
            if frame.K is not None:
                size = (frame.image.shape[1], frame.image.shape[0])
                info = camera_info_message(header, size, frame.K, None)
                yield TimedMessage("camera_info", stamp, bytes(serialize(info)))
            yield TimedMessage("image", stamp, bytes(serialize(image_message(frame.image, "rgb8", header))))

    def __enter__(self) -> FrameMessages:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()
