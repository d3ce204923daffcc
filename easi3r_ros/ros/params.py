"""ROS parameters made from the settings of the configuration dataclasses, and their values back, checked."""

from __future__ import annotations

import array
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from easi3r_ros.core.config import ConfigError, PipelineConfig, setting, settings, with_settings
from easi3r_ros.messages.plausible import tf_name
from easi3r_ros.ros.rclpy_gaps import give_as_float, given_parameters

log = logging.getLogger(__name__)

START_ONLY = ("autostart",)


@dataclass(frozen=True)
class NodeConfig:
    """What concerns the node alone; the pipeline's own settings are in PipelineConfig."""

    image_transport: str = setting(
        "raw",
        "raw: sensor_msgs/Image on `image`; compressed: sensor_msgs/CompressedImage on `image/compressed`.",
        choices=("raw", "compressed"),
    )
    image_bits: int = setting(
        0,
        "Bits of the values in 16-bit images, such as 10 or 12 in mono16; 0: the smallest of 8, 10, 12, 14 and 16 that "
        "holds the values so far.",
        low=0,
        high=16,
    )
    image_rectified: str = setting(
        "auto",
        "The images have no lens distortion, so P of camera_info counts; auto: if the image topic's name has 'rect'.",
        choices=("auto", "yes", "no"),
    )
    camera_info_strict: bool = setting(
        False,
        "Ignore a camera_info whose frame_id is not the images'. False: topic and size decide, with a warning.",
    )
    image_timeout: float = setting(
        5.0, "Seconds without an image after which the node warns and says what it found.", low=0.1, live=True
    )
    diagnostics_min_rate: float = setting(
        0.0, "Results per second below which `/diagnostics` warns; 0: never.", low=0.0, high=1000.0, live=True
    )
    diagnostics_max_latency: float = setting(
        0.0,
        "Seconds from an image to its results; `/diagnostics` warns if more than one in twenty takes longer. 0: never.",
        low=0.0,
        high=3600.0,
        live=True,
    )
    diagnostics_max_lost: float = setting(
        0.1,
        "Share of the images, lost by the middleware in the last seconds, above which `/diagnostics` warns; it is an "
        "error above 0.5.",
        low=0.0,
        high=1.0,
        live=True,
    )
    tf_mode: str = setting(
        "map_to_camera",
        "What is broadcast on /tf (REP-105). map_to_odom: map_frame -> odom_frame, for a robot with odometry; "
        "map_to_base: map_frame -> base_frame, for one without; map_to_camera: map_frame -> the image's frame_id, for "
        "a camera that has no parent; none: nothing.",
        choices=("map_to_odom", "map_to_base", "map_to_camera", "none"),
    )
    map_frame: str = setting("map", "Name of the world frame that poses, odometry, path and TF are given in.")
    odom_frame: str = setting(
        "odom", "Name of the odometry's frame, for tf_mode map_to_odom and scale.source odometry."
    )
    base_frame: str = setting("base_link", "Name of the robot's frame, for tf_mode map_to_base and level tf.")
    tf_tolerance: float = setting(
        0.1,
        "Seconds that the nearest transform may be from an image's stamp, where none came for the stamp itself.",
        low=0.0,
        high=10.0,
    )
    bag_mode: bool = setting(
        False,
        "Process every image: reliable input, and nothing is dropped. False: always the newest, others are dropped.",
    )
    path_length: int = setting(1000, "Poses kept in ~/path.", low=1, high=100_000, live=True)
    path_period: float = setting(
        1.0,
        "Seconds between messages on ~/path, by the images' stamps: each repeats all its poses. 0: with every pose.",
        low=0.0,
        high=3600.0,
        live=True,
    )
    external_mask: str = setting(
        "none",
        "Masks of others on `external_mask` (mono8, 255: moves or is to be left out), added to the node's own. stamp: "
        "the one with the image's stamp; latest: the last one that came, for a latched or a slower one; none: none.",
        choices=("none", "stamp", "latest"),
    )
    external_mask_wait: float = setting(
        0.2,
        "external_mask stamp: seconds that an image waits for its mask before it is processed without.",
        low=0.0,
        high=10.0,
    )
    body_mask: str = setting(
        "",
        "Image file, white where the camera sees the robot itself: always in the mask, and never an object.",
    )
    depth_tolerance: float = setting(
        0.0,
        "Seconds by which the stamps of an image and of its depth image on `depth` may differ; 0: not at all.",
        low=0.0,
        high=1.0,
    )
    autostart: bool = setting(True, "Configure and activate at start, without waiting for a lifecycle manager.")


@dataclass(frozen=True)
class Settings:
    """All parameters of the node."""

    node: NodeConfig = field(default_factory=NodeConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)

    def items(self) -> Iterator[tuple[str, Field, Any]]:
        """(parameter name, dataclass field, value) of every parameter."""
        yield from settings(self.node)
        yield from settings(self.pipeline)

    def updated(self, values: Mapping[str, Any]) -> Settings:
        """A copy with some parameters replaced, checked. Raises ConfigError."""
        of_node = {name for name, _, _ in settings(self.node)}
        # rclpy gives lists of numbers as array.array
        values = {name: tuple(v) if isinstance(v, array.array) else v for name, v in values.items()}
        return Settings(
            _with_frames(with_settings(self.node, {name: value for name, value in values.items() if name in of_node})),
            with_settings(self.pipeline, {name: value for name, value in values.items() if name not in of_node}),
        )


def _with_frames(config: NodeConfig) -> NodeConfig:
    """Names of frames as tf2 takes them. Raises ConfigError for one that it refuses."""
    changed = {}
    for item in fields(config):
        name, value = item.name, getattr(config, item.name)
        if not name.endswith("_frame"):
            continue
        changed[name] = tf_name(value)
        if not changed[name]:
            raise ConfigError(f"'{name}' is '{value}': a frame needs a name, such as '{item.default}'")
        if changed[name] != value:
            log.warning("%s '%s': frames have no slash in ROS 2, so it is '%s'", name, value, changed[name])
    return replace(config, **changed)


def declare(node: Node) -> Settings:
    """Declare every parameter and give their values at start (YAML, command line).

    Raises ConfigError that names the first parameter with a value that cannot work.
    """
    for name, item, default in Settings().items():
        value = Parameter.Type.INTEGER_ARRAY if isinstance(default, tuple) else default
        if isinstance(default, float):
            give_as_float(node, name)
        try:
            node.declare_parameter(name, value, descriptor(name, item, default))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigError(str(error)) from error
        if isinstance(default, tuple) and node.get_parameter_or(name).type_ == Parameter.Type.NOT_SET:
            # rclpy cannot tell the type of an empty list, so it takes none as a default.
            node.set_parameters([Parameter(name, Parameter.Type.INTEGER_ARRAY, list(default))])
    return read(node)


def unknown_overrides(node: Node) -> list[str] | None:
    """Names given a value at start (YAML, command line) that are no parameter of this node: typing errors, mostly.

    None: this rclpy does not tell what was given.
    """
    given = given_parameters(node)  # rclpy itself ignores them without a word
    if given is None:
        return None
    return [name for name in given if not (node.has_parameter(name) or name.startswith("qos_overrides."))]


def unused_qos(node: Node) -> list[str]:
    """QoS overrides given at start that belong to nothing that the node has opened so far."""
    given = given_parameters(node) or ()
    return [name for name in given if name.startswith("qos_overrides.") and not node.has_parameter(name)]


def read(node: Node) -> Settings:
    """The present values. Raises ConfigError."""
    return Settings().updated({name: node.get_parameter(name).value for name, _, _ in Settings().items()})


def descriptor(name: str, item: Field, default: Any) -> ParameterDescriptor:
    """What `ros2 param describe` shows: description, limits, and when a change takes effect."""
    meta = item.metadata
    # rclpy would refuse a whole number for one with a point before ParameterGuard can say what is wrong with a value.
    result = ParameterDescriptor(
        description=meta["description"], read_only=name in START_ONLY, dynamic_typing=isinstance(default, float)
    )
    constraints = [f"One of: {', '.join(meta['choices'])}."] if meta["choices"] else []
    if not result.read_only:
        constraints.append("Applied at once." if meta["live"] else "Read when the node is configured.")
    result.additional_constraints = " ".join(constraints)
    low, high = meta["low"], meta["high"]
    if isinstance(default, float) and (low, high) != (None, None):
        limit = sys.float_info.max
        result.floating_point_range = [
            FloatingPointRange(
                from_value=-limit if low is None else float(low), to_value=limit if high is None else float(high)
            )
        ]
    elif isinstance(default, int) and not isinstance(default, bool) and (low, high) != (None, None):
        result.integer_range = [
            IntegerRange(
                from_value=-(2**63) if low is None else int(low), to_value=2**63 - 1 if high is None else int(high)
            )
        ]
    return result


class ParameterGuard:
    """Decides about every change of a parameter, with the reason, and passes on what takes effect at once.

    is_configured(): whether the node runs on values it read earlier. apply(settings): called with the new settings when
    live ones changed while it is. Thread-safe: while one thread configures the node, another may answer a request.
    """

    def __init__(
        self, node: Node, start: Settings, is_configured: Callable[[], bool], apply: Callable[[Settings], None]
    ):
        self.settings = start
        self._is_configured = is_configured
        self._apply = apply
        self._fields = {name: item for name, item, _ in start.items()}
        self._lock = threading.Lock()
        node.add_on_set_parameters_callback(self.check)

    def check(self, parameters: list[Parameter]) -> SetParametersResult:
        ours = {parameter.name: parameter.value for parameter in parameters if parameter.name in self._fields}
        with self._lock:
            return self._check(ours)

    def _check(self, ours: dict[str, Any]) -> SetParametersResult:
        try:
            changed = self.settings.updated(ours)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        present = {name: value for name, _, value in self.settings.items()}
        different = [name for name, _, value in changed.items() if value != present[name]]
        if self._is_configured():
            fixed = [name for name in different if not self._fields[name].metadata["live"]]
            if fixed:
                return SetParametersResult(successful=False, reason=_not_now(fixed))
        self.settings = changed
        if different and self._is_configured():
            self._apply(changed)
        return SetParametersResult(successful=True)


def _not_now(names: list[str]) -> str:
    return (
        f"{', '.join(names)}: read when the node is configured, so it cannot change now; "
        "deactivate and clean up the node, change it, then configure and activate"
    )
