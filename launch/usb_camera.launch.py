"""A USB camera (v4l2_camera or usb_cam) and the node.

`ros2 launch easi3r_ros usb_camera.launch.py device_file:=/dev/video0`
"""

import runpy
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import Parameter

DRIVERS = runpy.run_path(str(Path(__file__).with_name("drivers.py")))
EXECUTABLES = {"v4l2_camera": "v4l2_camera_node", "usb_cam": "usb_cam_node_exe"}


def start(context: LaunchContext, package: str) -> list[Action]:
    device, width, height, calibration = (
        DRIVERS["value"](context, name) for name in ("device_file", "width", "height", "camera_info_url")
    )
    size = {"v4l2_camera": {"image_size": [int(width), int(height)]}}
    parameters = {"video_device": device, "camera_frame_id": "camera", "frame_id": "camera"}
    parameters |= size.get(package, {"image_width": int(width), "image_height": int(height)})
    if calibration:
        parameters["camera_info_url"] = calibration
    node = Node(
        package=package,
        executable=EXECUTABLES[package],
        name="driver",
        namespace="camera",
        parameters=[Parameter(name, value) for name, value in parameters.items()],
        output="screen",
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    arguments = (
        DeclareLaunchArgument("device_file", default_value="/dev/video0", description="The camera's device file."),
        DeclareLaunchArgument("width", default_value="640", description="Pixels; the camera must offer this size."),
        DeclareLaunchArgument("height", default_value="480", description="Pixels."),
        DeclareLaunchArgument(
            "camera_info_url",
            default_value="",
            description="file:///... of a calibration; without one, K is estimated.",
        ),
    )
    return DRIVERS["describe"](DRIVERS["Driver"](tuple(EXECUTABLES), "/camera/image_raw", start, arguments))
