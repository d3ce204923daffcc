"""When a recorded message is due, and on which topics it comes out. Knows no node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

TICK = 0.02  # seconds between two reports of the time while nothing is due
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "zstd")  # sub-topics of an image


class RemapError(ValueError):
    """A remapping that means nothing, or cannot be; the message says which and what to do."""


@dataclass(frozen=True)
class TimedMessage:
    """A message as it was recorded."""

    topic: str
    time_ns: int  # of recording
    data: bytes  # CDR


def paced(
    messages: Iterable[TimedMessage],
    rate: float,
    on_time: Callable[[int], None] | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[TimedMessage, float]]:
    """(message, seconds late) of each message when it is due, the first one at once.

    rate: recorded seconds per second. on_time(ns): told the recorded time at least every TICK seconds. A consumer that
    is too slow makes messages late; none is left out.
    """
    start, first = now(), None
    for message in messages:
        first = message.time_ns if first is None else first
        due = start + (message.time_ns - first) / 1e9 / rate
        while (left := due - now()) > 0:
            sleep(min(left, TICK) if on_time else left)
            if on_time:
                on_time(min(message.time_ns, first + int((now() - start) * rate * 1e9)))
        if on_time:
            on_time(message.time_ns)
        yield message, now() - due


def destinations(topics: Mapping[str, str], remap: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Topics to publish on, for each recorded one; several where a camera_info must be beside several images.

    topics: recorded topic -> type. remap: recorded topic -> new name. As with image_transport, the sub-topics of a
    remapped image (`image/compressed`) and the camera_info beside it follow, unless they are remapped themselves; an
    image that is recorded compressed alone can be remapped by the name of the raw one. Raises RemapError for a name
    that is none of the topics, and for two types on one topic.
    """
    new = {_rooted(old): name for old, name in remap.items()}
    images = {topic: base for topic, kind in topics.items() if (base := _image_base(topic, kind)) is not None}
    places = {topic: (_image_place(topic, images[topic], new),) for topic in images}
    for topic, kind in topics.items():
        if topic in images:
            continue
        own = new.get(_rooted(topic))
        beside = [] if own or kind != CAMERA_INFO else [image for image in images if _is_beside(topic, images[image])]
        followed = [_info_place(topic, images[image], *places[image]) for image in beside]
        places[topic] = (own,) if own else tuple(dict.fromkeys(followed)) or (topic,)
    _check(topics, new, images, places)
    return {topic: places[topic] for topic in topics}


def _rooted(topic: str) -> str:
    """The player's node is in the root namespace, so `image` and `/image` are one topic."""
    return topic if topic.startswith("/") else f"/{topic}"


def _image_base(topic: str, kind: str) -> str | None:
    """Name of the (raw) image that a topic carries in whatever transport; None: it is no image."""
    base, _, last = topic.rpartition("/")
    if base and last in TRANSPORTS:
        return base
    return topic if kind in IMAGES else None


def _image_place(topic: str, base: str, new: Mapping[str, str]) -> str:
    if (own := new.get(_rooted(topic))) is not None:
        return own
    moved = new.get(_rooted(base))
    return topic if moved is None else moved + topic.removeprefix(base)


def _is_beside(info: str, base: str) -> bool:
    return _rooted(info) in (f"{_rooted(base).rpartition('/')[0]}/camera_info", f"{_rooted(base)}/camera_info")


def _info_place(info: str, base: str, place: str) -> str:
    """Where the camera_info of an image belongs that is published on `place`."""
    moved, _, last = place.rpartition("/")
    moved = moved if moved and last in TRANSPORTS else place
    if moved == base:
        return info
    if _rooted(info) == f"{_rooted(base)}/camera_info":
        return f"{moved}/camera_info"
    return f"{moved.rpartition('/')[0]}/camera_info" if "/" in moved else "camera_info"


def _check(
    topics: Mapping[str, str],
    new: Mapping[str, str],
    images: Mapping[str, str],
    places: Mapping[str, tuple[str, ...]],
) -> None:
    known = {_rooted(name) for name in (*topics, *images.values())}
    for old in new.keys() - known:
        raise RemapError(f"there is no '{old}' to be remapped; there are: {', '.join(topics)}")
    kinds: dict[str, str] = {}
    for topic, kind in topics.items():
        for place in places[topic]:
            if kinds.setdefault(_rooted(place), kind) != kind:
                raise RemapError(
                    f"'{place}' would carry {kinds[_rooted(place)]} and {kind}: remap one of them elsewhere"
                )
