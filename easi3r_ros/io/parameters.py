"""Settings from a ROS parameter file, or a plain YAML file, and from NAME=VALUE texts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from easi3r_ros.core.config import ConfigError, PipelineConfig, settings

log = logging.getLogger(__name__)

NODE = "easi3r"
WILDCARDS = ("*", "**")  # of a namespace, or of a name
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
    values = _with_numbers(dict(_flat(_ours(content, path))))
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
    return _with_numbers(values)


def _with_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Texts as numbers where a setting is one: PyYAML wants 1.0e-1 where ROS, Python and people write 1e-1."""
    defaults = {name: default for name, _, default in settings(PipelineConfig())}
    return {name: _number(value) if isinstance(defaults.get(name), float) else value for name, value in values.items()}


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _ours(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The parameters that are for our node; later entries win, as in ROS."""
    of_nodes = {
        key: part[PARAMETERS] for key, part in content.items() if isinstance(part, Mapping) and PARAMETERS in part
    }
    if not of_nodes:
        return content
    merged: dict[str, Any] = {}
    named = [key for key in of_nodes if _is_ours(key)]
    for key in named:
        merged.update(_flat(of_nodes[key] or {}))
    if not merged:
        raise ConfigError(f"'{path}' has parameters for {', '.join(of_nodes)} only; ours are under /** or {NODE}")
    if len(nodes := [key for key in named if key.rpartition("/")[2] == NODE]) > 1:
        log.warning("'%s' has parameters for %s: the last one counts", path, ", ".join(nodes))
    return merged


def _is_ours(key: str) -> bool:
    """Whether a node of our name may be meant, in whatever namespace: /**, easi3r, /robot1/easi3r, /robot1/**."""
    return key.rpartition("/")[2] in (NODE, *WILDCARDS)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_of_node(name: str) -> bool:
    # Pipeline settings are in a section (window.size), but for `level`. What has none is the node's, or ROS's own.
    return ("." not in name and not hasattr(PipelineConfig(), name)) or name.startswith("qos_overrides.")
