"""Opening and reading rosbag2 recordings with rosbags, without ROS; every failure becomes a SourceError in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection, TopicInfo
from rosbags.typesys import Stores, get_typestore

from easi3r_ros.io.source import BAG_SUFFIXES, SourceError


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
    files = sorted(item for item in path.iterdir() if item.suffix in BAG_SUFFIXES)
    if len(files) == 1:
        return files[0]
    raise SourceError(f"'{path}' has {len(files)} storage files and no metadata.yaml: run ros2 bag reindex '{path}'")


def _damaged(path: Path, error: Exception) -> SourceError:
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return SourceError(
        f"'{path}' is damaged, truncated, or was not closed by its recorder ({reason}). "
        f"Try to repair it: ros2 bag reindex FOLDER, or mcap recover FILE.mcap -o NEW.mcap"
    )
