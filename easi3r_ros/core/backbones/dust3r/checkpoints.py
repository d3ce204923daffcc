"""Checkpoint files -> networks, safely (no code is run) and strictly (every tensor is accounted for).

Understood: .pth files of DUSt3R, MonST3R, MASt3R and what was fine-tuned from them, and hub folders with
config.json and model.safetensors. The published weights are CC BY-NC-SA 4.0: not for commercial use.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from easi3r_ros.core.backbones.dust3r.arguments import ArgumentError, network_config, parse_constructor
from easi3r_ros.core.backbones.dust3r.generated import canonical_name
from easi3r_ros.core.backbones.dust3r.network import Dust3rNetwork

log = logging.getLogger(__name__)

OBTAIN = "`easi3r weights` lists what there is and gets it"
# Parts that published checkpoints carry beside the network: the heads of pre-training and MASt3R's descriptors.
UNUSED = re.compile(r"prediction_head\.|downstream_head[12]\.head_local_features\.")
OPTIONAL = frozenset({"mask_token"})  # never read, so its values do not matter
HEAD_BYTES = 512


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, before it is a network."""

    path: Path
    arguments: Mapping[str, Any]  # of the published constructor, see `arguments`
    state: dict[str, torch.Tensor]  # names as in the file

    @property
    def metric(self) -> bool:
        """Predicts metres. No file says so in its content; the metric MASt3R checkpoints say so in their name."""
        descriptors = any("head_local_features" in name for name in self.state)
        return descriptors and any(re.search(r"_metric\b", part) for part in self.path.parts)


def load_network(path: str | Path) -> tuple[Dust3rNetwork, Checkpoint]:
    """A float32 network on the CPU, ready for inference, and what it was made from. Raises CheckpointError."""
    checkpoint = read_checkpoint(path)
    try:
        config = network_config(checkpoint.arguments)
    except ArgumentError as error:
        raise CheckpointError(f"{path}: unsupported network: {error}") from error
    with torch.device("meta"):
        network = Dust3rNetwork(config)
    network.load_state_dict(matched_state(checkpoint, network), assign=True)
    return network.eval().requires_grad_(False), checkpoint


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a file or hub folder. Raises CheckpointError for one that is missing, broken, unsafe or something else."""
    path = Path(path).expanduser().absolute()
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}: check backbone.checkpoint; {OBTAIN}")
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.exists():
            raise CheckpointError(f"{path.parent} is a folder without model.safetensors: name a checkpoint file")
    _refuse_impostors(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def matched_state(checkpoint: Checkpoint, network: Dust3rNetwork) -> dict[str, torch.Tensor]:
    """The file's tensors under the network's names, float32. Raises CheckpointError listing every mismatch in kind.

    A tensor listed under two names needs only one of them. If the file has no second decoder, the first serves both
    views. Parts known to be of no use here are left out, and the log names them.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor for name, tensor in checkpoint.state.items() if not UNUSED.match(name)}
    if unused := sorted({UNUSED.match(name)[0].rstrip(".") for name in checkpoint.state if UNUSED.match(name)}):
        log.info("%s: not used: %s", checkpoint.path.name, ", ".join(unused))
    state = _renamed(found, wanted)
    for name in OPTIONAL.intersection(wanted) - state.keys():
        state[name] = torch.zeros(wanted[name])
    misshapen = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(wanted[name])}"
        for name, tensor in state.items()
        if tensor.shape != wanted[name]
    ]
    missing, superfluous = sorted(wanted.keys() - state.keys()), sorted(found.keys() - wanted.keys())
    _refuse_mismatch(checkpoint.path, missing, superfluous, misshapen)
    return {name: tensor.float() for name, tensor in state.items()}


def _renamed(found: Mapping[str, torch.Tensor], wanted: Iterable[str]) -> dict[str, torch.Tensor]:
    """The wanted tensors that the file has under their own name, their alias, or the first decoder's name."""
    by_name = {canonical_name(name): tensor for name, tensor in found.items()}  # of two aliases the later one counts
    one_decoder = not any(name.startswith("dec_blocks2.") for name in found)
    state = {}
    for name in wanted:
        source = name.replace("dec_blocks2.", "dec_blocks.", 1) if one_decoder else name
        if (tensor := by_name.get(canonical_name(source))) is not None:
            state[name] = tensor
    return state


def _refuse_mismatch(path: Path, missing: list[str], superfluous: list[str], misshapen: list[str]) -> None:
    kinds = {"missing": missing, "superfluous": superfluous, "misshapen": misshapen}
    parts = [f"{len(names)} {kind} ({_shortened(names)})" for kind, names in kinds.items() if names]
    if parts:
        raise CheckpointError(
            f"{path}: the tensors do not fit the network that the file describes: {'; '.join(parts)}. "
            "The file is of another architecture or damaged"
        )


def _shortened(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... {len(names) - most} more" if len(names) > most else "")


def _refuse_impostors(path: Path) -> None:
    """What downloads leave behind instead of weights."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise CheckpointError(f"{path} is empty: the download failed, get it again; {OBTAIN}")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` where it comes from")
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise CheckpointError(f"{path} is a web page, not weights: the link needs a login or is wrong; {OBTAIN}")


def _read_safetensors(path: Path) -> Checkpoint:
    config = path.with_name("config.json")
    if not config.exists():
        raise CheckpointError(f"{config} is missing: it says which network the weights are for; get it too")
    try:
        arguments = json.loads(config.read_text())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise CheckpointError(f"{config} is not JSON ({error}): get it again") from error
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{config} holds no constructor arguments: get it again")
    try:
        return Checkpoint(path, arguments, safetensors.torch.load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}): get it again; {OBTAIN}") from error


def _read_pickle(path: Path) -> Checkpoint:
    content = _unpickle(path)
    model = getattr(content.get("args"), "model", None) if isinstance(content, dict) else None
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, str) or not isinstance(state, dict):
        raise CheckpointError(
            f"{path} is not a DUSt3R-architecture checkpoint: it lacks 'args' with .model, or 'model' with the weights"
        )
    not_tensors = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if not_tensors:
        raise CheckpointError(f"{path}: 'model' holds things that are no tensors: {_shortened(not_tensors)}")
    try:
        return Checkpoint(path, parse_constructor(model), state)
    except ArgumentError as error:
        raise CheckpointError(f"{path}: args.model cannot be read: {error}") from error


def _unpickle(path: Path) -> Any:
    try:
        # Checkpoints keep their training options as a Namespace; it holds plain values and runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file may raise anything in an unpickler
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} was refused because loading it could run code ({refused[1]}): use the publisher's own file or "
                "one converted to safetensors"
            ) from error
        raise CheckpointError(
            f"{path} is damaged, cut short or no PyTorch checkpoint: get it again; {OBTAIN}"
        ) from error
