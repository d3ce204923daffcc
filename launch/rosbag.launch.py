"""Plays a rosbag2 into the node, which processes every image: `ros2 launch easi3r_ros rosbag.launch.py bag:=FOLDER`.

Takes the arguments of camera.launch.py too. The player starts when the node is active, so that no image is missed while
weights load; the node keeps running after the end of the bag.
"""

import posixpath
import tempfile
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    parameters = PathJoinSubstitution([FindPackageShare("easi3r_ros"), "config", "rosbag.yaml"])
    camera = PythonLaunchDescriptionSource(str(Path(__file__).with_name("camera.launch.py")))
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="Folder of the rosbag2, or an .mcap file."),
            DeclareLaunchArgument("rate", default_value="1.0", description="Speed of the player; 1.0: as recorded."),
            DeclareLaunchArgument("params_file", default_value=parameters, description="YAML with parameters."),
            DeclareLaunchArgument("use_sim_time", default_value="true", description="Time from the player's /clock."),
            # The transitions below replace the node's own autostart: they tell when the node is ready.
            IncludeLaunchDescription(camera, launch_arguments={"autostart": "false"}.items()),
            _transition(Transition.TRANSITION_CONFIGURE),
            RegisterEventHandler(
                OnStateTransition(
                    start_state="configuring",
                    goal_state="inactive",
                    entities=[_transition(Transition.TRANSITION_ACTIVATE)],
                )
            ),
            RegisterEventHandler(
                OnStateTransition(
                    start_state="activating", goal_state="active", entities=[OpaqueFunction(function=start_player)]
                )
            ),
        ]
    )


def _transition(transition: int) -> EmitEvent:
    """Asks the one lifecycle node of this launch for a transition."""
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=lambda _: True, transition_id=transition))


def start_player(context: LaunchContext) -> list[ExecuteProcess]:
    """`ros2 bag play` where it is installed, else the player of this package."""
    bag, rate = (LaunchConfiguration(name).perform(context) for name in ("bag", "rate"))
    try:
        get_package_prefix("ros2bag")
    except PackageNotFoundError:
        easi3r = ExecutableInPackage(package="easi3r_ros", executable="easi3r")
        command = [easi3r, "play", bag, "--clock", "--rate", rate, "--wait", "60"]
    else:
        # The node listens already; the delay is for the two to find each other.
        command = ["ros2", "bag", "play", bag, "--clock", "--rate", rate, "--delay", "3"]
        command += ["--qos-profile-overrides-path", str(_lossless_qos(context))]
    return [ExecuteProcess(cmd=command, output="screen")]


def _lossless_qos(context: LaunchContext) -> Path:
    """A file that makes `ros2 bag play` wait for the node; as recorded, a camera's topics usually drop what is late."""
    namespace, image = (LaunchConfiguration(name).perform(context) for name in ("namespace", "image"))
    topic = posixpath.join("/", namespace, image)
    qos = {"reliability": "reliable", "history": "keep_all", "durability": "volatile"}
    path = Path(tempfile.mkdtemp(prefix="easi3r_ros_"), "qos.yaml")
    path.write_text(yaml.safe_dump({name: dict(qos) for name in (topic, f"{topic}/compressed")}))
    return path
