"""cuVSLAM (Isaac ROS Visual SLAM) with masks: `ros2 launch easi3r_ros cuvslam.launch.py image:=... depth:=...`.

Releases of isaac_ros_visual_slam differ in the names of the mask's topics, so these are arguments.
"""

import runpy
from collections.abc import Callable
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import Parameter

STACKS = runpy.run_path(str(Path(__file__).with_name("stacks.py")))


def start(context: LaunchContext, topic: Callable[[str], str]) -> list[Action]:
    def value(argument: str) -> str:
        return STACKS["value"](context, argument)

    parameters = {
        "num_cameras": 1,
        "num_input_masks": 1,
        "rectified_images": True,
        "base_frame": value("base_frame") or "base_link",
        "use_sim_time": value("use_sim_time").lower() == "true",
    }
    return [
        Node(
            package="isaac_ros_visual_slam",
            executable="isaac_ros_visual_slam",
            name="visual_slam_node",
            parameters=[Parameter(name, value, value_type=type(value)) for name, value in parameters.items()],
            remappings=[
                ("visual_slam/image_0", topic("sync/image")),
                ("visual_slam/camera_info_0", topic("sync/camera_info")),
                ("visual_slam/depth_0", topic("sync/depth")),
                (value("mask_input"), topic("mask")),
                (value("mask_info_input"), topic("mask/camera_info")),
            ],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    arguments = (
        DeclareLaunchArgument(
            "mask_input", default_value="visual_slam/mask_0", description="What its topic of masks is called."
        ),
        DeclareLaunchArgument(
            "mask_info_input",
            default_value="visual_slam/mask_camera_info_0",
            description="And that of their camera_info.",
        ),
    )
    source = "see nvidia-isaac-ros.github.io, Isaac ROS Visual SLAM"
    return STACKS["describe"](STACKS["Stack"]("isaac_ros_visual_slam", start, source, arguments))
