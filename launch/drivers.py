"""What the launch files of cameras share: the driver and the node on its images."""

import os
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
class Driver:
    """One kind of camera.

    packages: any one of them will do, the first that is installed is taken. image: the topic that it publishes.
    start(context, package): the actions that start it. defaults: arguments of camera.launch.py that differ for it.
    source: where it comes from, if not from apt.
    """

    packages: tuple[str, ...]
    image: str
    start: Callable[[LaunchContext, str], list[Action]]
    arguments: tuple[DeclareLaunchArgument, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


def describe(driver: Driver) -> LaunchDescription:
    """The driver and the node on its images; `driver:=false` where the camera runs already."""
    own = DeclareLaunchArgument("driver", default_value="true", description="Start the driver too; false: it runs.")
    start = OpaqueFunction(function=lambda context: _start_driver(driver, context))
    node = CAMERA["live"]({"image": driver.image, **driver.defaults}, before=[start])
    return LaunchDescription([own, *driver.arguments, *node])


def value(context: LaunchContext, argument: str) -> str:
    return LaunchConfiguration(argument).perform(context)


def _start_driver(driver: Driver, context: LaunchContext) -> list[Action]:
    """Raises RuntimeError, which ends the launch with its message, if no driver is installed."""
    if value(context, "driver").lower() != "true":
        return []
    package = next(filter(_is_installed, driver.packages), None)
    if package is None:
        name = driver.packages[0]
        apt = f"sudo apt install ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-{name.replace('_', '-')}"
        raise RuntimeError(
            f"the driver '{name}' is not installed: {driver.source or apt}; "
            "or start your own and give driver:=false image:=ITS_TOPIC"
        )
    # Raw images are larger than the shared memory that Fast DDS has by default (docs/cameras.md).
    environment = [SetEnvironmentVariable(name, file) for name, file in CAMERA["transport"]().items()]
    return [GroupAction([*environment, *driver.start(context, package)])]


def _is_installed(package: str) -> bool:
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True
