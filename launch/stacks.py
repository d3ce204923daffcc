"""What the launch files for other programs share: this node, and the program on what this node gives it."""

import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration

CAMERA = runpy.run_path(str(Path(__file__).with_name("camera.launch.py")))


@dataclass(frozen=True)
class Stack:
    """One program.

    package: of its node. start(context, topic): the actions that start it; topic(name): where this node's ~/name is.
    source: how to get it. defaults: arguments of camera.launch.py that differ for it.
    """

    package: str
    start: Callable[[LaunchContext, Callable[[str], str]], list[Action]]
    source: str
    arguments: tuple[DeclareLaunchArgument, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)


def describe(stack: Stack) -> LaunchDescription:
    """The program and this node; `stack:=false` where the program runs already, or is started elsewhere."""
    own = DeclareLaunchArgument(
        "stack", default_value="true", description=f"Start {stack.package} too; false: only this node, for it."
    )
    start = OpaqueFunction(function=lambda context: _start_stack(stack, context))
    return LaunchDescription([own, *stack.arguments, *CAMERA["live"](stack.defaults, before=[start])])


def value(context: LaunchContext, argument: str) -> str:
    return LaunchConfiguration(argument).perform(context)


def _start_stack(stack: Stack, context: LaunchContext) -> list[Action]:
    """Raises RuntimeError, which ends the launch with its message, if the program is not installed."""
    if value(context, "stack").lower() != "true":
        return []
    try:
        get_package_prefix(stack.package)
    except PackageNotFoundError:
        raise RuntimeError(
            f"'{stack.package}' is not installed: {stack.source}; or give stack:=false and start it yourself on the "
            "topics of docs/stacks.md"
        ) from None
    place = value(context, "namespace").strip("/")

    def topic(name: str) -> str:
        return f"/{place}/easi3r/{name}" if place else f"/easi3r/{name}"

    environment = [SetEnvironmentVariable(name, file) for name, file in CAMERA["transport"]().items()]
    return [GroupAction([*environment, *stack.start(context, topic)])]
