"""Plays a rosbag2 into the node, which processes every image: `ros2 launch easi3r_ros rosbag.launch.py bag:=FOLDER`.

Takes the arguments of camera.launch.py too, but for autostart. The player starts when the node is active, so that no
image is missed while weights load. When the player has ended and the node has worked off what it received, both are
over; `exit_at_end:=false` leaves the node running, to look at its last results.
"""

import os
import posixpath
import runpy
import tempfile
import time
from pathlib import Path

import launch.logging
import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import Action, LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnShutdown
from launch.events import matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.ros_adapters import get_ros_adapter, get_ros_node
from launch_ros.substitutions import ExecutableInPackage
from lifecycle_msgs.msg import Transition

CAMERA = runpy.run_path(str(Path(__file__).with_name("camera.launch.py")))

LOOK = 1.0  # seconds between two looks at whether the node is done
QUIET = 3.0  # seconds without a result, and twice the time of the last one, after which nothing more is expected
NOTHING = 15.0  # the same where images are missing: one that failed has no result


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="Folder of the rosbag2, or an .mcap or .db3 file."),
            DeclareLaunchArgument("rate", default_value="1.0", description="Speed of the player; 1.0: as recorded."),
            DeclareLaunchArgument(
                "exit_at_end",
                default_value="true",
                description="Stop the node when the bag is over and its last image processed; false: leave it running.",
            ),
            *CAMERA["arguments"]("rosbag.yaml", "true"),
            OpaqueFunction(function=start),
            OpaqueFunction(function=CAMERA["start_rviz"]),
        ]
    )


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Everything, with the values that the arguments have now: another include may set them before the player starts.

    Raises RuntimeError, which ends the launch with its message, if there is no such bag.
    """
    bag, rate, image, exit_at_end = (
        LaunchConfiguration(name).perform(context) for name in ("bag", "rate", "image", "exit_at_end")
    )
    path = Path(bag).expanduser()
    if not path.exists():
        raise RuntimeError(f"there is no bag '{bag}': bag:= names the folder of a rosbag2, or an .mcap or .db3 file")
    return Playback(path, rate, image, exit_at_end.lower() == "true").start(context)


class Playback:
    """One bag and one node; another of each may run in the same launch."""

    def __init__(self, bag: Path, rate: str, image: str, exit_at_end: bool):
        self._bag, self._rate, self._image, self._exit_at_end = bag, rate, image, exit_at_end
        self._begun, self._stopped = False, False
        self._qos_file: Path | None = None
        self._log = launch.logging.get_logger("easi3r_ros")

    def start(self, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        # The transitions replace the node's own autostart: they tell when the node is ready.
        self._node: LifecycleNode = CAMERA["make_node"](context, False, self._node_exited)
        activate = self._transition(Transition.TRANSITION_ACTIVATE)
        return [
            self._when("configuring", "inactive", activate),
            self._when("activating", "active", OpaqueFunction(function=self._start_player)),
            *(
                self._when(begun, reached, OpaqueFunction(function=self._fail))
                for begun, reached in (
                    ("configuring", "unconfigured"),
                    ("configuring", "errorprocessing"),
                    ("activating", "inactive"),
                    ("activating", "errorprocessing"),
                )
            ),
            RegisterEventHandler(OnShutdown(on_shutdown=self._remove_file)),
            self._node,
            self._transition(Transition.TRANSITION_CONFIGURE),
        ]

    def _transition(self, transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(self._node), transition_id=transition))

    def _when(self, begun: str, reached: str, action: Action) -> RegisterEventHandler:
        return RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=self._node, start_state=begun, goal_state=reached, entities=[action]
            )
        )

    def _fail(self, _: LaunchContext) -> None:
        raise RuntimeError(f"the bag '{self._bag}' is not played: the node could not start, its log says why")

    def _start_player(self, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        """`ros2 bag play` where it is installed, else the player of this package."""
        if self._begun:  # somebody deactivated the node and activated it again
            return []
        self._begun = True
        self._progress = Progress(context, self._node.node_name)
        try:
            get_package_prefix("ros2bag")
        except PackageNotFoundError:
            easi3r = ExecutableInPackage(package="easi3r_ros", executable="easi3r")
            command = [easi3r, "play", str(self._bag), "--clock", "--rate", self._rate, "--wait", "60"]
        else:
            # The node listens already; the delay is for the two to find each other.
            command = ["ros2", "bag", "play", str(self._bag), "--clock", "--rate", self._rate, "--delay", "3"]
            command += ["--qos-profile-overrides-path", str(self._lossless_qos())]
        return [ExecuteProcess(cmd=command, output="screen", on_exit=self._player_exited)]

    def _lossless_qos(self) -> Path:
        """A file that makes `ros2 bag play` wait for the node; as recorded, a camera's topics may drop what is late."""
        topic = posixpath.join(posixpath.dirname(self._node.node_name), self._image)
        qos = {"reliability": "reliable", "history": "keep_all", "durability": "volatile"}
        handle, name = tempfile.mkstemp(prefix="easi3r_ros_qos_", suffix=".yaml")
        self._qos_file = Path(name)
        with os.fdopen(handle, "w") as file:
            file.write(yaml.safe_dump({each: dict(qos) for each in (topic, f"{topic}/compressed")}))
        return self._qos_file

    def _remove_file(self, *_: object) -> None:
        if self._qos_file is not None:
            self._qos_file.unlink(missing_ok=True)

    def _player_exited(self, event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        self._remove_file()
        if context.is_shutdown:
            return []
        if event.returncode:
            text = f"the player of '{self._bag}' failed with exit status {event.returncode}; what it said is above"
            if self._exit_at_end:
                raise RuntimeError(text)  # ends the launch with exit status 1
            self._log.error(f"{text}. The node runs on: Ctrl-C ends it")
            return []
        if not self._exit_at_end:
            self._log.info(f"the bag '{self._bag}' is over. The node runs on: Ctrl-C ends it")
            return []
        self._log.info(f"the bag '{self._bag}' is over; waiting for the node to process what it received")
        self._progress.begin_to_wait()
        return [self._look_again()]

    def _look_again(self) -> TimerAction:
        return TimerAction(period=LOOK, actions=[OpaqueFunction(function=self._look)])

    def _look(self, _: LaunchContext) -> list[LaunchDescriptionEntity]:
        if not self._progress.is_over:
            return [self._look_again()]
        if self._progress.count:
            self._log.info(f"the node is done: {self._progress.count} results")
        else:
            self._log.error(
                f"the node gave no result: is '{self._image}' the topic of images of '{self._bag}'? (image:=TOPIC)"
            )
        self._stopped = True
        # The node alone: a launch that includes this one goes on. Where nothing else runs, launch ends by itself.
        return [EmitEvent(event=ShutdownProcess(process_matcher=matches_action(self._node)))]

    def _node_exited(self, event: ProcessExited, context: LaunchContext) -> list[Action]:
        return [] if self._stopped else CAMERA["end_launch"](event, context)


class Progress:
    """What the node's status says about how much there is left to do."""

    def __init__(self, context: LaunchContext, node: str):
        from easi3r_ros.msg import WindowStatus  # once the node runs, the messages are there

        self.count = 0
        self._status: WindowStatus | None = None
        self._last = time.monotonic()
        of_launch = get_ros_node(context)

        def subscribe() -> None:
            self._subscription = of_launch.create_subscription(WindowStatus, f"{node}/status", self._came, 10)

        # Newer launch_ros makes subscriptions on the thread that spins.
        getattr(get_ros_adapter(context), "run_in_spin_thread", lambda function: function())(subscribe)

    def begin_to_wait(self) -> None:
        self._last = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Every image that the node received is processed, and no other came for a while; or nothing at all comes."""
        quiet = time.monotonic() - self._last
        if self._status is None:
            return quiet > NOTHING
        done = self._status.frames_received <= self._status.frames_processed + self._status.frames_dropped
        return quiet > (QUIET if done else NOTHING) + 2e-3 * self._status.processing_latency_ms

    def _came(self, status: object) -> None:
        self._status, self._last = status, time.monotonic()
        self.count += 1
