"""stella_vslam on images without what moves.

`ros2 launch easi3r_ros stella_vslam.launch.py image:=/camera/image_raw config:=camera.yaml vocabulary:=orb_vocab.fbow`
"""

import runpy
from collections.abc import Callable
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import Node

STACKS = runpy.run_path(str(Path(__file__).with_name("stacks.py")))


def start(context: LaunchContext, topic: Callable[[str], str]) -> list[Action]:
    """Raises RuntimeError without the two files that stella_vslam cannot do without."""
    vocabulary, config = (STACKS["value"](context, name) for name in ("vocabulary", "config"))
    if not (vocabulary and config):
        raise RuntimeError("stella_vslam needs vocabulary:=orb_vocab.fbow and config:=camera.yaml, of your camera")
    return [
        Node(
            package="stella_vslam_ros",
            executable="run_slam",
            name="run_slam",
            arguments=["-v", vocabulary, "-c", config],
            # Its node takes no topic of masks; programs of your own give `mask_static` to feed_monocular_frame.
            remappings=[("camera/image_raw", topic("image_static"))],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    arguments = (
        DeclareLaunchArgument("vocabulary", default_value="", description="Its vocabulary, orb_vocab.fbow."),
        DeclareLaunchArgument("config", default_value="", description="Its YAML about your camera."),
    )
    source = "see stella-vslam-ros.readthedocs.io"
    return STACKS["describe"](STACKS["Stack"]("stella_vslam_ros", start, source, arguments))
