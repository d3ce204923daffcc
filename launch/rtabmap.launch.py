"""RTAB-Map on depth without what moves: `ros2 launch easi3r_ros rtabmap.launch.py image:=... depth:=...`."""

import os
import runpy
from collections.abc import Callable
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

STACKS = runpy.run_path(str(Path(__file__).with_name("stacks.py")))
PASSED_ON = ("frame_id", "visual_odometry", "odom_topic", "rtabmap_args", "use_sim_time")


def start(context: LaunchContext, topic: Callable[[str], str]) -> list[Action]:
    file = PathJoinSubstitution([FindPackageShare("rtabmap_launch"), "launch", "rtabmap.launch.py"])
    arguments = {
        "rgb_topic": topic("sync/image"),
        "depth_topic": topic("depth_static"),
        "camera_info_topic": topic("sync/camera_info"),
        "approx_sync": "false",  # all three have the image's stamp
        "qos": "1",  # reliable, as they are published
        **{name: STACKS["value"](context, name) for name in PASSED_ON},
    }
    return [IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments.items())]


def generate_launch_description() -> LaunchDescription:
    arguments = (
        DeclareLaunchArgument("frame_id", default_value="base_link", description="Frame of the robot's body."),
        DeclareLaunchArgument(
            "visual_odometry", default_value="true", description="RTAB-Map's own; false: odom_topic."
        ),
        DeclareLaunchArgument("odom_topic", default_value="odom", description="nav_msgs/Odometry of the robot."),
        DeclareLaunchArgument("rtabmap_args", default_value="", description="Its own, such as --delete_db_on_start."),
    )
    source = f"sudo apt install ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-rtabmap-ros"
    return STACKS["describe"](STACKS["Stack"]("rtabmap_launch", start, source, arguments, {"tf_mode": "none"}))
