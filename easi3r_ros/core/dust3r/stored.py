"""The checkpoints that their authors publish, by name, and where they are kept here. Fetches nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LICENCE = "CC BY-NC-SA 4.0, non-commercial use only"


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


def home() -> Path:
    """Where this project keeps what it downloads: $EASI3R_HOME, else ~/.cache/easi3r."""
    chosen = os.environ.get("EASI3R_HOME")
    return Path(chosen) if chosen else Path.home() / ".cache" / "easi3r"


def folder(checkpoint: KnownCheckpoint) -> Path:
    """Where it is, or would be, stored; under its authors' name, which also says whether it predicts metres."""
    return home() / "weights" / checkpoint.repository.rpartition("/")[2]


def is_stored(checkpoint: KnownCheckpoint) -> bool:
    return all((folder(checkpoint) / file.name).is_file() for file in checkpoint.files)


def resolve(text: str, checkpoints: Sequence[KnownCheckpoint] = CHECKPOINTS) -> str:
    """What `backbone.checkpoint` may be set to, as a path: a path, or the name of a stored checkpoint.

    Raises WeightsError for a name that is known but not stored. A path is not looked at here.
    """
    known = [checkpoint for checkpoint in checkpoints if checkpoint.name == text]
    if not known or Path(text).exists():
        return text
    if not is_stored(known[0]):
        raise WeightsError(f"checkpoint '{text}' is not on this machine: fetch it with 'easi3r weights get {text}'")
    return str(folder(known[0]))
