"""An Intel RealSense (realsense2_camera) and the node: `ros2 launch easi3r_ros realsense.launch.py`."""

import runpy
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

DRIVERS = runpy.run_path(str(Path(__file__).with_name("drivers.py")))

DEFAULTS = {"depth": "/camera/camera/aligned_depth_to_color/image_raw"}


def start(context: LaunchContext, package: str) -> list[Action]:
    file = PathJoinSubstitution([FindPackageShare(package), "launch", "rs_launch.py"])
    arguments = {
        "camera_namespace": "camera",
        "camera_name": "camera",
        "rgb_camera.color_profile": DRIVERS["value"](context, "color_profile"),
        "align_depth.enable": "true",
    }
    return [IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments.items())]


def generate_launch_description() -> LaunchDescription:
    profile = DeclareLaunchArgument("color_profile", default_value="640x480x30", description="WIDTHxHEIGHTxRATE.")
    driver = DRIVERS["Driver"](("realsense2_camera",), "/camera/camera/color/image_raw", start, (profile,), DEFAULTS)
    return DRIVERS["describe"](driver)
