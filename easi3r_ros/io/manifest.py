"""What a run wrote into its folder, written down there, so that a later run removes exactly that and nothing else."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "manifest.jsonl"
Record = Callable[[Path, bool], None]  # (file or folder that was made, whether it is complete)


class ForeignFile(RuntimeError):
    """Something is in the way that no run wrote; the message says what and what to do."""


@dataclass(frozen=True)
class Entry:
    """One line of the manifest. A file that was not finished is known by its inode, others by size and time."""

    path: str  # relative to the folder of the run
    folder: bool = False
    inode: int | None = None
    size: int | None = None
    mtime_ns: int | None = None

    def is_of(self, status: os.stat_result) -> bool:
        """Whether what is there now (not followed, if a link) is what was written down."""
        if self.folder:
            return stat.S_ISDIR(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            return False
        if self.size is None:
            return status.st_ino == self.inode
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


class Manifest:
    """FOLDER/manifest.jsonl; made when the first thing is recorded, complete after each."""

    def __init__(self, folder: Path):
        self._folder = folder

    def record(self, path: Path, complete: bool) -> None:
        """Write down a file or folder that the run has just made, or has just completed. Raises OSError."""
        status, name = path.lstat(), path.relative_to(self._folder).as_posix()
        if stat.S_ISDIR(status.st_mode):
            entry = Entry(name, folder=True)
        elif complete:
            entry = Entry(name, size=status.st_size, mtime_ns=status.st_mtime_ns)
        else:
            entry = Entry(name, inode=status.st_ino)
        values = {key: value for key, value in asdict(entry).items() if value not in (None, False)}
        with (self._folder / NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def has_manifest(folder: Path) -> bool:
    return (folder / NAME).is_file()


def remove_results(folder: Path, names: list[str]) -> None:
    """Remove what earlier runs wrote into `folder`, after checking that `names` will be free then.

    Either everything is removed that the manifest names, or nothing. Raises ForeignFile where one of them is, or holds,
    what no run wrote or what was changed since; and OSError.
    """
    entries = _read(folder)
    ours = {folder / name: entry for name, entry in entries.items() if _exists(folder / name)}
    for path, entry in ours.items():
        if not entry.is_of(path.lstat()) or not path.parent.resolve().is_relative_to(folder.resolve()):
            raise ForeignFile(f"'{path}' has changed since a run wrote it: {_ADVICE}")
    roots = [folder / name for name in names if _exists(folder / name)]
    for path in [inner for root in roots for inner in _tree(root)] + roots:
        if path not in ours:
            raise ForeignFile(f"'{path}' was not written by an earlier run: {_ADVICE}")
    for path in sorted(ours, key=lambda path: len(path.parts), reverse=True):  # what is in a folder before the folder
        if not ours[path].folder:
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()
    (folder / NAME).unlink(missing_ok=True)


_ADVICE = "move it away, or choose another folder"


def _read(folder: Path) -> dict[str, Entry]:
    """By name; later lines win. A line that makes no sense, such as the last one of a killed run, says nothing."""
    entries = {}
    try:
        lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        try:
            entry = Entry(**json.loads(line))
            parts = Path(entry.path).parts
        except (ValueError, TypeError):
            continue
        if parts and not Path(entry.path).is_absolute() and ".." not in parts:
            entries[entry.path] = entry
    return entries


def _tree(root: Path) -> list[Path]:
    """Everything in a folder, however deep; links are not followed."""
    if root.is_symlink() or not root.is_dir():
        return []
    return [Path(base, name) for base, folders, files in os.walk(root) for name in (*folders, *files)]


def _exists(path: Path) -> bool:
    return os.path.lexists(path)
