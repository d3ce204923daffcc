"""Public checkpoints that the network can load: what they are, where they come from, and where they are kept.

Nothing is fetched unless `get` is called (`easi3r weights get NAME`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easi3r_ros.io.download import DownloadError, announced_sha256, download, sha256_of

if TYPE_CHECKING:
    from easi3r_ros.core.dust3r.network import NetworkConfig

LICENCE = "CC BY-NC-SA 4.0, non-commercial use only"
FIRST_USE = "no checksum known: that of the first download is printed and recorded (trust on first use)"
SUMS = "SHA256SUMS"  # in the format of sha256sum, so `sha256sum -c SHA256SUMS` checks it too


class WeightsError(RuntimeError):
    """A checkpoint is not known, not there, or damaged; the message says what to do."""


@dataclass(frozen=True)
class RemoteFile:
    name: str
    sha256: str | None = None  # published sum; None: none is documented, so the first download's is recorded


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint as its authors publish it, in a folder of the Hugging Face Hub."""

    name: str
    title: str
    repository: str  # owner/name on the hub
    gigabytes: float  # size of the download, rounded
    network: Mapping[str, Any] = field(default_factory=dict)  # how it differs from the default NetworkConfig
    licence: str = LICENCE
    files: tuple[RemoteFile, ...] = (RemoteFile("config.json"), RemoteFile("model.safetensors"))

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.repository}"

    def url(self, file: RemoteFile) -> str:
        return f"{self.page}/resolve/main/{file.name}"


LINEAR = {"head": "linear"}
CHECKPOINTS = (
    KnownCheckpoint(
        "dust3r-512-dpt",
        "DUSt3R, 512 px, DPT head",
        "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt",
        gigabytes=2.28,
    ),
    KnownCheckpoint(
        "dust3r-512-linear",
        "DUSt3R, 512 px, linear head",
        "naver/DUSt3R_ViTLarge_BaseDecoder_512_linear",
        gigabytes=2.13,
        network=LINEAR,
    ),
    KnownCheckpoint(
        "dust3r-224-linear",
        "DUSt3R, 224 px, linear head",
        "naver/DUSt3R_ViTLarge_BaseDecoder_224_linear",
        gigabytes=2.13,
        network={**LINEAR, "image_size": (224, 224)},
    ),
    KnownCheckpoint(
        "monst3r",
        "MonST3R, 512 px, DPT head, trained with moving things",
        "Junyi42/MonST3R_PO-TA-S-W_ViTLarge_BaseDecoder_512_dpt",
        gigabytes=2.28,
    ),
    KnownCheckpoint(
        "mast3r-metric",
        "MASt3R, 512 px, DPT head, metres",
        "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
        gigabytes=2.75,
        licence=f"{LICENCE}; further restricted by the Map-free data set (see CHECKPOINTS_NOTICE of its authors)",
    ),
)
# For tests and first steps: through every stage in a second.
SMALL = {"encoder_width": 96, "encoder_depth": 4, "encoder_heads": 6, "decoder_width": 96}


@dataclass(frozen=True)
class Obtained:
    """What `get` did with one file."""

    path: Path
    sha256: str
    checked_against: str  # which sum it was checked against; "": there was none


def home() -> Path:
    """Where this project keeps what it downloads: $EASI3R_HOME, else ~/.cache/easi3r."""
    chosen = os.environ.get("EASI3R_HOME")
    return Path(chosen) if chosen else Path.home() / ".cache" / "easi3r"


def find(name: str) -> KnownCheckpoint:
    """Raises WeightsError for an unknown name."""
    for checkpoint in CHECKPOINTS:
        if checkpoint.name == name:
            return checkpoint
    raise WeightsError(f"no checkpoint is called '{name}'; known: {', '.join(c.name for c in CHECKPOINTS)}")


def folder(checkpoint: KnownCheckpoint) -> Path:
    """Where it is, or would be, stored; under its authors' name, which also says whether it predicts metres."""
    return home() / "weights" / checkpoint.repository.rpartition("/")[2]


def is_stored(checkpoint: KnownCheckpoint) -> bool:
    return all((folder(checkpoint) / file.name).is_file() for file in checkpoint.files)


def resolve(text: str) -> str:
    """What `backbone.checkpoint` may be set to, as a path: a path, or the name of a stored checkpoint.

    Raises WeightsError for a name that is known but not stored. A path is not looked at here.
    """
    known = [checkpoint for checkpoint in CHECKPOINTS if checkpoint.name == text]
    if not known or Path(text).exists():
        return text
    if not is_stored(known[0]):
        raise WeightsError(f"checkpoint '{text}' is not on this machine: fetch it with 'easi3r weights get {text}'")
    return str(folder(known[0]))


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
