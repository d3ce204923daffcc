"""Settings from a ROS parameter file, or a plain YAML file, and from NAME=VALUE texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from easi3r_ros.core.config import ConfigError, PipelineConfig, settings

NODE_KEYS = ("/**", "easi3r", "/easi3r", "/**/easi3r")
PARAMETERS = "ros__parameters"


def read_parameters(path: Path) -> tuple[dict[str, Any], list[str]]:
    """(pipeline settings by dotted name, names of the node's own parameters, which mean nothing without a node).

    Accepts the node's files (NODE: ros__parameters: ...), and the same without these two levels. Raises ConfigError.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"'{path}' holds no parameters: expected NAME: VALUE lines, or NODE: {PARAMETERS}: ...")
    values = dict(_flat(_ours(content, path)))
    return {name: value for name, value in values.items() if not _is_of_node(name)}, sorted(filter(_is_of_node, values))


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE texts as settings; VALUE is YAML (8, 0.5, true, [1, 3]), or plain text for a setting that is text.

    Raises ConfigError for a text without '='.
    """
    defaults = {name: default for name, _, default in settings(PipelineConfig())}
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"'{text}' must be NAME=VALUE, such as window.size=8")
        try:
            values[name] = value if isinstance(defaults.get(name), str) else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of '{name}' cannot be read: {value!r}") from error
    return values


def _ours(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The parameters that are for our node; later entries win, as in ROS."""
    of_nodes = {
        key: part[PARAMETERS] for key, part in content.items() if isinstance(part, Mapping) and PARAMETERS in part
    }
    if not of_nodes:
        return content
    merged: dict[str, Any] = {}
    for key in of_nodes:
        if key in NODE_KEYS:
            merged.update(_flat(of_nodes[key] or {}))
    if not merged:
        raise ConfigError(f"'{path}' has parameters for {', '.join(of_nodes)} only; ours are under /** or easi3r")
    return merged


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_of_node(name: str) -> bool:
    # Pipeline settings are in a section (window.size), but for `level`. What has none is the node's, or ROS's own.
    return ("." not in name and not hasattr(PipelineConfig(), name)) or name.startswith("qos_overrides.")
