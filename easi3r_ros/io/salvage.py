"""MCAP files without an end: how ours are written so that they never are, and how others' are read.

Readers look for a summary at the end. Where the recorder was killed there is none; with a footer that says so behind
the last complete record, they read the file from its beginning instead.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"\x89MCAP0\r\n"
SQLITE = b"SQLite format 3\0"
_DATA_END, _FOOTER = 0x0F, 0x02
ENDING = (
    struct.pack("<BQI", _DATA_END, 4, 0)  # no checksum
    + struct.pack("<BQQQI", _FOOTER, 20, 0, 0, 0)  # no summary
    + MAGIC
)


def storage_suffix(path: Path) -> str | None:
    """What a file holds, by its first bytes: .mcap, .db3, or None for neither. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(len(SQLITE))
    return ".mcap" if head.startswith(MAGIC) else ".db3" if head == SQLITE else None


def keep_readable(file: BinaryIO) -> None:
    """End an MCAP that is being written, after a complete record, so that the next record replaces the end."""
    file.write(ENDING)
    file.flush()
    file.seek(-len(ENDING), os.SEEK_CUR)


def end_of_records(file: BinaryIO, size: int) -> tuple[int, bool]:
    """(offset behind the last complete record with data, whether the file ends as it should) of an MCAP."""
    file.seek(-len(MAGIC), os.SEEK_END)
    if file.read() == MAGIC:
        return size, True
    at = len(MAGIC)
    while at + 9 <= size:
        file.seek(at)
        kind, length = struct.unpack("<BQ", file.read(9))
        if kind == _DATA_END or not 0 < kind <= 0x7F or at + 9 + length > size:
            break
        at += 9 + length
    return at, False


class StorageFile:
    """A storage file of a bag, for rosbags as a path: by content whatever its name, with an end if it lacks one."""

    def __init__(self, path: Path):
        """Raises OSError."""
        self.path, self.name = path, path.name
        self.suffix = storage_suffix(path) or path.suffix
        self._end, self.complete = path.stat().st_size, True
        if self.suffix == ".mcap" and self._end > len(MAGIC):
            with path.open("rb") as file:
                self._end, self.complete = end_of_records(file, self._end)

    def exists(self) -> bool:
        return self.path.exists()

    def is_dir(self) -> bool:
        return False

    def open(self, mode: str = "rb") -> BinaryIO:
        if self.complete:
            return self.path.open(mode)
        return io.BufferedReader(_Ended(self.path, self._end))

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.path, name)


class _Ended(io.RawIOBase):
    """The first `size` bytes of a file, and then ENDING."""

    def __init__(self, path: Path, size: int):
        self._file, self._size, self._at = path.open("rb"), size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size + len(ENDING)}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at < self._size:
            self._file.seek(self._at)
            data = self._file.read(min(len(buffer), self._size - self._at))
        else:
            start = self._at - self._size
            data = ENDING[start : start + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
