"""A Luxonis OAK (depthai_ros_driver) and the node: `ros2 launch easi3r_ros oak.launch.py`."""

import runpy
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

DRIVERS = runpy.run_path(str(Path(__file__).with_name("drivers.py")))


def start(context: LaunchContext, package: str) -> list[Action]:
    file = PathJoinSubstitution([FindPackageShare(package), "launch", "camera.launch.py"])
    arguments = {
        "name": "oak",
        "camera_model": DRIVERS["value"](context, "camera_model"),
        "rectify_rgb": "true",
    }
    return [IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments.items())]


def generate_launch_description() -> LaunchDescription:
    model = DeclareLaunchArgument("camera_model", default_value="OAK-D", description="OAK-D, OAK-D-LITE, OAK-D-PRO ...")
    return DRIVERS["describe"](DRIVERS["Driver"](("depthai_ros_driver",), "/oak/rgb/image_rect", start, (model,)))
