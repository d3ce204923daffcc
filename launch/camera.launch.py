"""Starts the node on a camera: `ros2 launch easi3r_ros camera.launch.py image:=/camera/image_rect`.

`ros2 launch easi3r_ros camera.launch.py --show-args` explains the arguments.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import Action, LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import Parameter
from launch_ros.substitutions import FindPackageShare

# Arguments that set one parameter of the node: (argument, parameter, what it is). Empty: the parameters file counts.
SHORTCUTS = (
    ("checkpoint", "backbone.checkpoint", "DUSt3R-architecture checkpoint; none: the classical default"),
    ("device", "backbone.device", "cpu, cuda, cuda:1 ..."),
    ("image_transport", "image_transport", "raw or compressed"),
    ("tf_mode", "tf_mode", "what is broadcast on /tf"),
    ("map_frame", "map_frame", "name of the world frame"),
    ("odom_frame", "odom_frame", "name of the odometry's frame"),
    ("base_frame", "base_frame", "name of the robot's frame"),
    ("level", "level", "none, camera, imu or tf: how the world gets its z axis up"),
    ("scale_source", "scale.source", "auto, none, checkpoint, odometry, depth, camera_height or fixed"),
    ("external_mask", "external_mask", "none, stamp or latest: how masks of others are taken in"),
)

# Topics under ~/ that rviz/easi3r.rviz shows.
SHOWN = ("map", "points/static", "points/dynamic", "objects/markers", "path", "mask", "sync/image")


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(live())


def live(
    defaults: Mapping[str, str] = MappingProxyType({}), before: Sequence[Action] = ()
) -> list[LaunchDescriptionEntity]:
    """The node on a camera and its arguments; defaults: those that differ, by name.

    before: what is started with it. It comes first, as RViz does: a process that was started before an exception ends
    the launch may be left running.
    """
    autostart = DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate at start.")
    start = (OpaqueFunction(function=start_rviz), *before, OpaqueFunction(function=start_node))
    return [*arguments("camera.yaml", "false", defaults), autostart, *start]


def arguments(
    parameters: str, use_sim_time: str, defaults: Mapping[str, str] = MappingProxyType({})
) -> list[DeclareLaunchArgument]:
    """Arguments of a launch file that starts the node; parameters: the default file of config/; defaults: by name."""
    file = PathJoinSubstitution([FindPackageShare("easi3r_ros"), "config", parameters])
    declared = [
        DeclareLaunchArgument(
            "image", default_value=defaults.get("image", "image"), description="Topic of the images."
        ),
        DeclareLaunchArgument(
            "camera_info", default_value="", description="Topic of the calibration; empty: camera_info beside `image`."
        ),
        DeclareLaunchArgument(
            "depth",
            default_value="depth",
            description="Topic of depth images that are aligned with the images, if any.",
        ),
        DeclareLaunchArgument(
            "imu", default_value="imu", description="Topic of an IMU fixed to the camera, for level:=imu."
        ),
        DeclareLaunchArgument(
            "odom", default_value="odom", description="Topic of odometry, for scale.odometry topic (see docs/tf.md)."
        ),
        DeclareLaunchArgument(
            "masks", default_value="external_mask", description="Topic of masks of others (parameter `external_mask`)."
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument("rviz", default_value="false", description="Start RViz too, with rviz/easi3r.rviz."),
        DeclareLaunchArgument("params_file", default_value=file, description="YAML with parameters."),
        DeclareLaunchArgument("use_sim_time", default_value=use_sim_time, description="Time from /clock."),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error."),
    ]
    return declared + [
        DeclareLaunchArgument(
            argument, default_value=defaults.get(argument, ""), description=f"{text} (parameter `{parameter}`)."
        )
        for argument, parameter, text in SHORTCUTS
    ]


def start_node(context: LaunchContext) -> list[LifecycleNode]:
    """The node, without which nothing is left to do."""
    autostart = LaunchConfiguration("autostart").perform(context).lower() == "true"
    return [make_node(context, autostart, end_launch)]


def make_node(
    context: LaunchContext, autostart: bool, on_exit: Callable[[ProcessExited, LaunchContext], list[Action]]
) -> LifecycleNode:
    """The node, with the values that the arguments have by now."""

    def value(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    image = value("image")
    # image_transport's rule: the calibration of a/b/image is on a/b/camera_info.
    camera_info = value("camera_info") or "/".join([*image.split("/")[:-1], "camera_info"])
    given = {parameter: value(argument) for argument, parameter, _ in SHORTCUTS if value(argument)}
    given |= {"use_sim_time": value("use_sim_time").lower() == "true", "autostart": autostart}
    return LifecycleNode(
        package="easi3r_ros",
        executable="node",
        name="easi3r",
        namespace=value("namespace"),
        # One by one: of a dictionary launch_ros makes a file in /tmp that nobody removes.
        parameters=[value("params_file"), *(Parameter(name, v, value_type=type(v)) for name, v in given.items())],
        remappings=[
            ("image", image),
            ("image/compressed", f"{image}/compressed"),
            ("camera_info", camera_info),
            ("depth", value("depth")),
            ("imu", value("imu")),
            ("odom", value("odom")),
            ("external_mask", value("masks")),
        ],
        arguments=["--ros-args", "--log-level", value("log_level")],
        output="screen",
        emulate_tty=True,
        additional_env=transport(),
        on_exit=on_exit,
    )


def transport() -> dict[str, PathJoinSubstitution]:
    """Environment in which raw images fit into Fast DDS's shared memory (docs/cameras.md); what the user set counts."""
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2, 3
    if any(name in os.environ for name in names):
        return {}
    file = PathJoinSubstitution([FindPackageShare("easi3r_ros"), "config", "fastdds.xml"])
    return dict.fromkeys(names, file)


def start_rviz(context: LaunchContext) -> list[Node]:
    """RViz with this package's layout, where that is asked for. Raises RuntimeError if it is not installed."""

    def value(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    if value("rviz").lower() != "true":
        return []
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        raise RuntimeError(
            "rviz:=true, but RViz is not installed: "
            f"sudo apt install ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-rviz2, or leave rviz:=true out "
            "and look with Foxglove (foxglove/easi3r.json)"
        ) from None
    layout = PathJoinSubstitution([FindPackageShare("easi3r_ros"), "rviz", "easi3r.rviz"])
    # The layout is for the node /easi3r: in a namespace the same topics are elsewhere.
    place = value("namespace").strip("/")
    moved = [(f"/easi3r/{name}", f"/{place}/easi3r/{name}") for name in SHOWN] if place else []
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name="rviz",
            namespace="",
            arguments=["-d", layout, "-f", value("map_frame") or "map"],
            parameters=[Parameter("use_sim_time", value("use_sim_time").lower() == "true", value_type=bool)],
            remappings=moved,
            output="log",
        )
    ]


def end_launch(_: ProcessExited, context: LaunchContext) -> list[Action]:
    """Without the node nothing is left to do; a launch that ends already must not be ended twice."""
    return [] if context.is_shutdown else [Shutdown(reason="the node ended")]
