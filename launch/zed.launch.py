"""A Stereolabs ZED (zed_wrapper) and the node: `ros2 launch easi3r_ros zed.launch.py camera_model:=zed2i`."""

import runpy
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

DRIVERS = runpy.run_path(str(Path(__file__).with_name("drivers.py")))


def start(context: LaunchContext, package: str) -> list[Action]:
    file = PathJoinSubstitution([FindPackageShare(package), "launch", "zed_camera.launch.py"])
    arguments = {
        "camera_model": DRIVERS["value"](context, "camera_model"),
        "camera_name": "zed",
        # Its odometry stays; map -> odom is this node's.
        "publish_map_tf": "false",
    }
    return [IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments.items())]


def generate_launch_description() -> LaunchDescription:
    model = DeclareLaunchArgument("camera_model", default_value="zed2i", description="zed, zedm, zed2, zed2i, zedx ...")
    driver = DRIVERS["Driver"](
        ("zed_wrapper",),
        "/zed/zed_node/rgb/color/rect/image",
        start,
        (model,),
        source="build it from https://github.com/stereolabs/zed-ros2-wrapper",
    )
    return DRIVERS["describe"](driver)
