"""DynOSAM on image, depth and tracked instances: `ros2 launch easi3r_ros dynosam.launch.py image:=... depth:=...`."""

import runpy
from collections.abc import Callable
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

STACKS = runpy.run_path(str(Path(__file__).with_name("stacks.py")))


def start(context: LaunchContext, topic: Callable[[str], str]) -> list[Action]:
    file = PathJoinSubstitution([FindPackageShare("dynosam_ros"), "launch", "dyno_sam_online_rgbdm_launch.py"])
    arguments = {
        "rgb_cam_topic": topic("sync/image"),
        "depth_cam_topic": topic("sync/depth"),
        "mask_cam_topic": topic("instances"),
        "camera_info_topic": topic("sync/camera_info"),
        "base_frame": STACKS["value"](context, "parent_frame"),
    }
    return [IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments.items())]


def generate_launch_description() -> LaunchDescription:
    frame = DeclareLaunchArgument("parent_frame", default_value="camera_link", description="Of the optical frame.")
    source = "see github.com/ACFR-RPG/DynOSAM"
    return STACKS["describe"](STACKS["Stack"]("dynosam_ros", start, source, (frame,)))
