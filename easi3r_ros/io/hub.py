"""Public checkpoints that the network can load: what they are, where they come from, and where they are kept.

Nothing is fetched unless `get` is called (`easi3r weights get NAME`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from easi3r_ros.core.dust3r import stored
from easi3r_ros.core.dust3r.stored import (
    CHECKPOINTS,
    LICENCE,
    SMALL,
    KnownCheckpoint,
    RemoteFile,
    WeightsError,
    folder,
    home,
    is_stored,
)
from easi3r_ros.io.download import DownloadError, announced_sha256, download, sha256_of

if TYPE_CHECKING:
    from easi3r_ros.core.dust3r.network import NetworkConfig

__all__ = ["CHECKPOINTS", "LICENCE", "SMALL", "KnownCheckpoint", "RemoteFile", "WeightsError", "folder", "home"]
__all__ += ["FIRST_USE", "SUMS", "Obtained", "find", "get", "is_stored", "known_sums", "network_named", "resolve"]

FIRST_USE = "no checksum known: that of the first download is printed and recorded (trust on first use)"
SUMS = "SHA256SUMS"  # in the format of sha256sum, so `sha256sum -c SHA256SUMS` checks it too


@dataclass(frozen=True)
class Obtained:
    """What `get` did with one file."""

    path: Path
    sha256: str
    checked_against: str  # which sum it was checked against; "": there was none


def find(name: str) -> KnownCheckpoint:
    """Raises WeightsError for an unknown name."""
    for checkpoint in CHECKPOINTS:
        if checkpoint.name == name:
            return checkpoint
    raise WeightsError(f"no checkpoint is called '{name}'; known: {', '.join(c.name for c in CHECKPOINTS)}")


def resolve(text: str) -> str:
    """As `stored.resolve`, of the checkpoints that can be had."""
    return stored.resolve(text, CHECKPOINTS)


Progress = Callable[[str, int, "int | None"], None]  # (file name, bytes so far, bytes in all if known)


def known_sums(checkpoint: KnownCheckpoint) -> dict[str, str]:
    """File name -> sha256, where one is published or was recorded at the first download."""
    published = {file.name: file.sha256 for file in checkpoint.files if file.sha256}
    return _read_sums(folder(checkpoint)) | published


def get(checkpoint: KnownCheckpoint, progress: Progress | None = None) -> list[Obtained]:
    """Fetch what is missing, check all of it, and say against what. Raises WeightsError and DownloadError."""
    place = folder(checkpoint)
    recorded = _read_sums(place)
    obtained = []
    for file in checkpoint.files:
        item = _obtain(checkpoint, file, place, recorded.get(file.name), progress)
        recorded[file.name] = item.sha256
        _write_sums(place, recorded)
        obtained.append(item)
    return obtained


def network_named(text: str) -> NetworkConfig:
    """Sizes of a network: "small", a checkpoint's name, or a file with constructor arguments (a hub's config.json).

    Raises WeightsError.
    """
    from easi3r_ros.core.dust3r.checkpoints import ArgumentError, network_config
    from easi3r_ros.core.dust3r.network import NetworkConfig

    known = {checkpoint.name: checkpoint.network for checkpoint in CHECKPOINTS} | {"small": SMALL}
    if text in known:
        return NetworkConfig(**known[text])
    try:
        return network_config(json.loads(Path(text).read_text()))
    except FileNotFoundError as error:
        raise WeightsError(f"'{text}' is neither a file nor one of {', '.join(known)}") from error
    except (OSError, TypeError, AttributeError, ValueError, ArgumentError) as error:
        raise WeightsError(f"'{text}' is no network configuration: {error}") from error


def _obtain(
    checkpoint: KnownCheckpoint, file: RemoteFile, place: Path, recorded: str | None, progress: Progress | None
) -> Obtained:
    target, url = place / file.name, checkpoint.url(file)
    expected, against = (
        (file.sha256, "published sum") if file.sha256 else (recorded, "sum recorded at the first download")
    )
    if target.is_file():
        actual = sha256_of(target)
        if expected is not None and actual != expected:
            raise WeightsError(
                f"'{target}' is damaged: expected sha256 {expected} ({against}), it has {actual}. "
                f"Delete it and run 'easi3r weights get {checkpoint.name}' again"
            )
        return Obtained(target, actual, against if expected else "")
    report = None if progress is None else lambda done, total: progress(file.name, done, total)
    try:
        if expected is None:
            expected, against = announced_sha256(url), "sum announced by the server"
        actual = download(url, target, expected, report)
    except DownloadError as error:
        raise DownloadError(
            f"{error}. By hand: fetch {url} elsewhere (its page: {checkpoint.page}) and save it as '{target}'"
        ) from error
    return Obtained(target, actual, against if expected else "")


def _read_sums(place: Path) -> dict[str, str]:
    path = place / SUMS
    if not path.is_file():
        return {}
    pairs = (line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip())
    return {name.lstrip("*"): digest for digest, name in pairs}


def _write_sums(place: Path, sums: dict[str, str]) -> None:
    partial = place / f"{SUMS}.part"
    partial.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    os.replace(partial, place / SUMS)
