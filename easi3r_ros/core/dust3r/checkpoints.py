"""Checkpoint files -> networks, safely (no code is run) and strictly (every tensor is accounted for).

Understood: .pth files of DUSt3R, MonST3R, MASt3R and what was fine-tuned from them, and hub folders with
config.json and model.safetensors. The published weights are CC BY-NC-SA 4.0: not for commercial use.
"""

from __future__ import annotations

import argparse
import ast
import codecs
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from easi3r_ros.core.dust3r.network import Dust3rNetwork, NetworkConfig
from easi3r_ros.core.dust3r.stored import WeightsError, resolve
from easi3r_ros.libraries import needed

log = logging.getLogger(__name__)

MAX_TEXT = 10_000  # characters; the published constructor texts have about 400
SIZES = {
    "enc_embed_dim": "encoder_width",
    "enc_depth": "encoder_depth",
    "enc_num_heads": "encoder_heads",
    "dec_embed_dim": "decoder_width",
    "dec_depth": "decoder_depth",
    "dec_num_heads": "decoder_heads",
}
HEADS = {"dpt": "dpt", "linear": "linear", "catmlp+dpt": "dpt"}  # the last: MASt3R, a descriptor beside the same DPT
MODES = {"depth_mode": ("exp", -math.inf, math.inf), "conf_mode": ("exp", 1, math.inf)}
# Concern training, descriptors, or how the published code batches portrait images: no influence on what we compute.
WITHOUT_EFFECT = {
    *("patch_embed_cls", "landscape_only", "freeze", "output_mode", "desc_mode", "two_confs", "desc_conf_mode"),
    *("local_feat_dim", "mask_ratio"),
}


class ArgumentError(ValueError):
    """The constructor arguments of a checkpoint cannot be understood or describe a network that is not supported."""


def parse_constructor(text: str) -> dict[str, Any]:
    """Keyword arguments of a call such as "Net(img_size=(512, 512), depth_mode=('exp', -inf, inf))", as plain data.

    Numbers, strings, booleans, None, tuples, lists, inf and float('inf') are read; a bare name stays a string. Raises
    ArgumentError for anything else, such as positional arguments or other calls.
    """
    if len(text) > MAX_TEXT:
        raise ArgumentError(f"the constructor text has {len(text)} characters, more than {MAX_TEXT}")
    try:
        return _keywords(ast.parse(text.strip(), mode="eval").body)
    except ArgumentError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # also null bytes, and nesting too deep
        raise ArgumentError(f"not a Python expression: {text[:80]!r}") from error


def network_config(arguments: Mapping[str, Any]) -> NetworkConfig:
    """The network that constructor arguments describe, from a constructor text or from a config.json.

    Raises ArgumentError if the network computes something else than METHOD 2; unknown arguments are only logged.
    """
    _check_modes(arguments)
    head, position = arguments.get("head_type", "linear"), str(arguments.get("pos_embed", "RoPE100"))
    base = re.fullmatch(r"RoPE(\d+(?:\.\d+)?)", position)
    if not isinstance(head, str) or head not in HEADS:
        raise ArgumentError(f"head_type is {head!r}, supported are {', '.join(HEADS)}")
    if not base:
        raise ArgumentError(f"pos_embed is {position!r}, supported is RoPE with its base, such as 'RoPE100'")
    try:
        return NetworkConfig(
            **{ours: int(arguments[theirs]) for theirs, ours in SIZES.items() if theirs in arguments},
            head=HEADS[head],
            image_size=_size(arguments.get("img_size", 224)),
            patch_size=int(arguments.get("patch_size", 16)),
            mlp_ratio=float(arguments.get("mlp_ratio", 4)),
            rope_base=float(base[1]),
        )
    except (TypeError, ValueError) as error:
        raise ArgumentError(str(error)) from error


def constructor_text(config: NetworkConfig) -> str:
    """The inverse of the two functions above, as published checkpoints write it."""
    keywords = ", ".join(f"{name}={_source(value)}" for name, value in constructor_arguments(config).items())
    return f"AsymmetricCroCo3DStereo({keywords})"


def constructor_arguments(config: NetworkConfig) -> dict[str, Any]:
    """The inverse of `network_config`, as a config.json holds it."""
    arguments = {
        "pos_embed": f"RoPE{config.rope_base:g}",
        "img_size": list(config.image_size),
        "patch_size": config.patch_size,
        "head_type": config.head,
        "output_mode": "pts3d",
        "depth_mode": ["exp", "-inf", "inf"],
        "conf_mode": ["exp", 1, "inf"],
        "mlp_ratio": config.mlp_ratio,
    }
    return arguments | {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}


def _source(value: Any) -> str:
    """As Python source; the infinities, which JSON has no number for, as bare names."""
    if isinstance(value, list):
        return f"({', '.join(_source(item) for item in value)})"
    return value if value in ("inf", "-inf") else repr(value)


def _check_modes(arguments: Mapping[str, Any]) -> None:
    known = {*SIZES, *WITHOUT_EFFECT, "head_type", "pos_embed", "img_size", "patch_size", "mlp_ratio"}
    known |= {*MODES, "norm_im2_in_dec"}
    if unknown := sorted(set(arguments) - known):
        log.warning("checkpoint: unknown constructor arguments are ignored: %s", ", ".join(unknown))
    for name, supported in MODES.items():
        mode = arguments.get(name, supported)
        if not isinstance(mode, (tuple, list)) or tuple(_number(item) for item in mode) != supported:
            raise ArgumentError(f"{name} is {mode!r}, supported is {supported!r}")
    if not arguments.get("norm_im2_in_dec", True):
        raise ArgumentError("norm_im2_in_dec is False: networks without the decoder's norm_y are not supported")


def _keywords(call: ast.expr) -> dict[str, Any]:
    if not isinstance(call, ast.Call):
        raise ArgumentError(f"not a constructor call: {ast.unparse(call)[:80]}")
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ArgumentError(f"only keyword arguments are understood: {ast.unparse(call)[:80]}")
    return {keyword.arg: _value(keyword.value) for keyword in call.keywords if keyword.arg}


def _size(value: Any) -> tuple[int, int]:
    width, height = value if isinstance(value, (tuple, list)) else (value, value)
    return int(width), int(height)


def _number(value: Any) -> Any:
    """Infinity is a string in some config.json files."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):  # bool is an int
            return value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item) for item in items)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if isinstance(number := _value(operand), (int, float)):
            return -number
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id=name):
            return name
        case ast.Attribute(attr="inf"):
            return math.inf
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value="inf" | "-inf" as text)], keywords=[]):
            return float(text)
    raise ArgumentError(f"not plain data: {ast.unparse(node)[:80]!r}")


OBTAIN = "`easi3r weights` lists what there is and gets it"
# Parts that published checkpoints carry beside the network: the heads of pre-training and MASt3R's descriptors.
UNUSED = re.compile(r"prediction_head\.|downstream_head[12]\.head_local_features\.")
COMPILED = "_orig_mod."  # of torch.compile, wherever it was applied
WRAPPERS = ("module.", "model.", "net.", "network.")
OLD_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
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
    """Reads a file, a hub folder, or a published checkpoint that is stored here, by its name.

    Raises CheckpointError for one that is missing, broken, unsafe or something else.
    """
    try:
        path = Path(resolve(str(path))).expanduser().absolute()
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
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
    given = without_wrappers(checkpoint.state, checkpoint.path)
    found = {name: tensor for name, tensor in given.items() if not UNUSED.match(name)}
    if unused := sorted({UNUSED.match(name)[0].rstrip(".") for name in given if UNUSED.match(name)}):
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
    _refuse_no_numbers(checkpoint.path, state)
    return {name: tensor.float() for name, tensor in state.items()}


def without_wrappers(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Names without what DataParallel, torch.compile and trainers put before all of them; says what is left out."""
    names, stripped = {name: name.replace(COMPILED, "") for name in state}, []
    if any(COMPILED in name for name in state):
        stripped.append(COMPILED)
    while prefix := next((p for p in WRAPPERS if names and all(new.startswith(p) for new in names.values())), ""):
        names = {name: new.removeprefix(prefix) for name, new in names.items()}
        stripped.append(prefix)
    if stripped:
        log.warning(
            "%s: '%s' is left out of the tensors' names: a wrapper wrote them", path.name, "', '".join(stripped)
        )
    return {names[name]: tensor for name, tensor in state.items()}


def canonical_name(name: str) -> str:
    """The first of the two names under which checkpoints list the same DPT tensor; other names unchanged."""
    return re.sub(r"\.scratch\.layer_rn\.(\d)\.", lambda match: f".scratch.layer{int(match[1]) + 1}_rn.", name)


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


def _refuse_no_numbers(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    bad = [name for name, tensor in state.items() if name not in OPTIONAL and not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} of {len(state)} tensors hold NaN or infinity ({_shortened(bad)}): the training "
            "diverged, or the file is damaged; take another checkpoint"
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
    with needed("safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
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
        return Checkpoint(path, arguments, load_file(path))
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


def _harmless() -> list[Any]:
    """What an unpickler may make beside tensors and plain values: options, and numbers and arrays of NumPy."""
    kinds = {type(np.dtype(code)) for code in (*np.typecodes["AllInteger"], *np.typecodes["Float"], "?", "U", "S")}
    core = getattr(np, "_core", None) or np.core  # NumPy 1 had the old name, and files keep it
    made = [core.multiarray.scalar, core.multiarray._reconstruct]
    renamed = [(item, f"{module}.{item.__name__}") for item in made for module in OLD_NUMPY]
    return [argparse.Namespace, np.dtype, np.ndarray, codecs.encode, *kinds, *made, *renamed]


def _unpickle(path: Path) -> Any:
    with needed("torch"):  # older ones cannot be told what is safe
        pass
    try:
        # Checkpoints keep their training options as a Namespace; it holds plain values and runs no code.
        with torch.serialization.safe_globals(_harmless()):
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
