"""Points for Nav2's voxel layer, without what moves: `ros2 launch easi3r_ros nav2.launch.py image:=... depth:=...`.

Nav2 itself is started as usual; docs/stacks.md has the lines for its parameters.
"""

import os
import runpy
from collections.abc import Callable
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import Node

STACKS = runpy.run_path(str(Path(__file__).with_name("stacks.py")))


def start(context: LaunchContext, topic: Callable[[str], str]) -> list[Action]:
    return [
        Node(
            package="depth_image_proc",
            executable="point_cloud_xyz_node",
            name="static_points",
            remappings=[
                ("image_rect", topic("depth_static")),
                ("camera_info", topic("sync/camera_info")),
                ("points", STACKS["value"](context, "points")),
            ],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    points = DeclareLaunchArgument("points", default_value="/static_points", description="Topic for the voxel layer.")
    source = f"sudo apt install ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-depth-image-proc"
    return STACKS["describe"](STACKS["Stack"]("depth_image_proc", start, source, (points,), {"tf_mode": "none"}))
