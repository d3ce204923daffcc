"""What a checkpoint says about its network: the constructor call stored in it, read as data and never evaluated."""

from __future__ import annotations

import ast
import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from easi3r_ros.core.backbones.dust3r.network import NetworkConfig

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
            motion_head=bool(arguments.get("motion_head", False)),
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
    arguments |= {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    return arguments | ({"motion_head": True} if config.motion_head else {})


def _source(value: Any) -> str:
    """As Python source; the infinities, which JSON has no number for, as bare names."""
    if isinstance(value, list):
        return f"({', '.join(_source(item) for item in value)})"
    return value if value in ("inf", "-inf") else repr(value)


def _check_modes(arguments: Mapping[str, Any]) -> None:
    known = {*SIZES, *WITHOUT_EFFECT, "head_type", "pos_embed", "img_size", "patch_size", "mlp_ratio"}
    known |= {*MODES, "norm_im2_in_dec", "motion_head"}
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
