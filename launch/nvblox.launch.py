"""nvblox on depth, image and mask of one moment: `ros2 launch easi3r_ros nvblox.launch.py image:=... depth:=...`."""

import runpy
from collections.abc import Callable
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import Parameter

STACKS = runpy.run_path(str(Path(__file__).with_name("stacks.py")))


def start(context: LaunchContext, topic: Callable[[str], str]) -> list[Action]:
    parameters = {
        "global_frame": STACKS["value"](context, "global_frame"),
        # What the mask covers goes into a map of its own, which forgets; the rest into the static one.
        "mapping_type": "human_with_static_tsdf",
        "use_lidar": False,
        "num_cameras": 1,
        "use_sim_time": STACKS["value"](context, "use_sim_time").lower() == "true",
    }
    return [
        Node(
            package="nvblox_ros",
            executable="nvblox_node",
            name="nvblox_node",
            parameters=[Parameter(name, value, value_type=type(value)) for name, value in parameters.items()],
            remappings=[
                ("camera_0/depth/image", topic("sync/depth")),
                ("camera_0/depth/camera_info", topic("sync/camera_info")),
                ("camera_0/color/image", topic("sync/image")),
                ("camera_0/color/camera_info", topic("sync/camera_info")),
                ("camera_0/mask/image", topic("mask")),
                ("camera_0/mask/camera_info", topic("mask/camera_info")),
            ],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    frame = DeclareLaunchArgument("global_frame", default_value="odom", description="Frame of nvblox's map.")
    source = "see nvidia-isaac-ros.github.io, Isaac ROS Nvblox"
    return STACKS["describe"](STACKS["Stack"]("nvblox_ros", start, source, (frame,)))
