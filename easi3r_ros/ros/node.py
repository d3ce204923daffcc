"""The ROS 2 node `easi3r`: a lifecycle node that turns a camera's images into masks, poses, depth and clouds."""

# ruff: noqa: E402
from __future__ import annotations

from easi3r_ros.ros import signals

if __name__ == "__main__":
    signals.take_over()  # before the imports below, which take seconds: an interrupt ends them quietly, too

import functools
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from easi3r_ros.core.backbone import suit_threads
from easi3r_ros.core.config import ConfigError
from easi3r_ros.libraries import MissingLibrary
from easi3r_ros.messages.status import BackboneInfo
from easi3r_ros.ros import params, spinning
from easi3r_ros.ros.logs import RosLogHandler, Throttle
from easi3r_ros.ros.monitor import starves, state_diagnostic
from easi3r_ros.ros.neighbours import Neighbours
from easi3r_ros.ros.outputs import Outputs
from easi3r_ros.ros.rclpy_gaps import release_state_machine
from easi3r_ros.ros.stream import Stream
from easi3r_ros.ros.tracker import PipelineFactory, Tracker, warm_pipeline
from easi3r_ros.ros.world import World, check_world
from easi3r_ros.srv import SaveMap

_REPEAT_SECONDS = 10.0
TIME_LOOP = 0.1  # seconds that simulated time goes back; less is a clock that two publish
# Of an interrupted node, for the image or the transition in hand; less than signals.PATIENCE, to say goodbye as well.
_END_PATIENCE = 0.7
_TRANSITIONS = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "cleanup",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: "shutdown",
    Transition.TRANSITION_INACTIVE_SHUTDOWN: "shutdown",
    Transition.TRANSITION_ACTIVE_SHUTDOWN: "shutdown",
}


def _told(callback: Callable) -> Callable:
    """A transition that says why it failed; rclpy keeps that to itself."""

    @functools.wraps(callback)
    def telling(self: Easi3rNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(self, state)
        except Exception as error:
            name = callback.__name__.removeprefix("on_")
            self._why_not_configured = f"{name} failed: {_words(error)}"
            self._error(f"{self._why_not_configured}. The node is not configured any more", error)
            return TransitionCallbackReturn.ERROR

    return telling


class Easi3rNode(LifecycleNode):
    """configure reads the parameters and loads the weights, activate opens the subscriptions.

    For the executor of `spinning.executor_for`: transitions run on a thread of their own, images on the worker's.
    Raises ConfigError if a parameter given at start cannot work.
    """

    def __init__(self, make_pipeline: PipelineFactory = warm_pipeline, **node_options):
        super().__init__("easi3r", **node_options)
        self._make_pipeline = make_pipeline
        self._engine: Tracker | None = None
        self._outputs: Outputs | None = None
        self._stream: Stream | None = None
        # Who reads or replaces the three above together; never held while something takes long.
        self._lock = threading.RLock()
        self._fixed = False  # whether the parameters that are read when the node is configured have been read
        self._transitions = spinning.Background(self)
        self._under_way = threading.Event()  # `start` has begun
        self._ending = False
        self._why_not_configured = ""
        self._why_silent = ""
        self._throttle = Throttle(_REPEAT_SECONDS)
        self._log_handler = RosLogHandler(self.get_logger())
        logging.getLogger("easi3r_ros").addHandler(self._log_handler)
        logging.getLogger("easi3r_ros").setLevel(logging.DEBUG)  # the node's own logger decides what is said
        settings = params.declare(self)
        unknown = params.unknown_overrides(self)
        if unknown is None:
            self.get_logger().info("this rclpy does not tell which parameters were given: typing errors go unnoticed")
        elif unknown:
            self._warn(f"ignoring unknown parameters: {', '.join(unknown)} (see `ros2 param list`)")
        self._parameters_guard = params.ParameterGuard(self, settings, lambda: self._fixed, self._apply)
        self.autostart = settings.node.autostart
        self._neighbours = Neighbours(self, lambda text: self.get_logger().warning(text))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A group of its own: a reset waits for the image in hand, what shares its group for the reset.
        self.create_service(Trigger, "~/reset", self._on_reset, callback_group=MutuallyExclusiveCallbackGroup())
        self.create_service(SetBool, "~/pause", self._on_pause)
        self._saving = spinning.Background(self)
        self.create_service(SaveMap, "~/save_map", self._on_save_map, callback_group=ReentrantCallbackGroup())
        self._answer_change_requests()
        self._watch_simulated_time()
        # Wall time: with simulated time a paused bag would silence the diagnostics about it.
        self.create_timer(1.0, self._every_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _watch_simulated_time(self) -> None:
        """A loop of a simulation or a bag begins a new world, however short; in bag_mode the stamps alone decide."""
        back = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-TIME_LOOP), on_clock_change=False)

        def jumped(jump: TimeJump) -> None:
            stream, bag_mode = self._stream, self._parameters_guard.settings.node.bag_mode
            if stream is not None and not bag_mode and stream.reset(lambda: None):
                self._warn(f"simulated time jumped back by {-jump.delta.nanoseconds / 1e9:.3f} s: a new world begins")

        self._time_jumps = self.get_clock().create_jump_callback(back, post_callback=jumped)

    def _answer_change_requests(self) -> None:
        """Transitions on a thread of their own, so that everything else is answered meanwhile; refusals in words.

        rclpy itself blocks its executor, and raises for a transition that the state does not have.
        """
        service = _service(self, ChangeState)
        if service is None:
            self._warn("this rclpy hides the service change_state: nothing is answered while a transition runs")
            return
        change = service.callback

        async def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            name = request.transition.label or _TRANSITIONS.get(request.transition.id, str(request.transition.id))
            done = self._transitions.begin(name, lambda: self._changed(change, request, response, name))
            if done is not None:
                return await done
            self._warn(f"lifecycle transition '{name}' refused: '{self._transitions.job}' is not done yet, ask again")
            response.success = False
            return response

        service.callback = answer
        service.callback_group = ReentrantCallbackGroup()  # a second request is refused, not kept waiting
        service.callback_group.add_entity(service)

    def _changed(
        self, change: Callable, request: ChangeState.Request, response: ChangeState.Response, name: str
    ) -> ChangeState.Response:
        try:
            return change(request, response)
        except RuntimeError as error:
            self._warn(f"lifecycle transition '{name}' refused: {error}")
            response.success = False
            return response

    def start(self) -> None:
        """Begin to configure and activate without a lifecycle manager. When it returns, the state is on its way."""
        if self._transitions.begin("start", self._start):
            self._under_way.wait()

    def _start(self) -> None:
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS and not self._ending:
                self.trigger_activate()
        except RuntimeError as error:
            self._warn(f"the node could not start itself: {error}")
        finally:
            self._under_way.set()

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._under_way.set()
        with self._lock:
            settings, self._fixed = self._parameters_guard.settings, True
        try:
            engine = Tracker(settings.pipeline, self._on_restart, self._make_pipeline)
            check_world(settings, engine.backbone)
            outputs = Outputs(self, settings, self._warn)
        except Exception as error:  # a lifecycle node answers every failure with a state, never with its end
            self._fixed = False
            self._why_not_configured = f"cannot configure: {_words(error)}"
            self._error(f"{self._why_not_configured}. Correct the parameters and configure again", error)
            return TransitionCallbackReturn.FAILURE
        suit_threads(engine.backbone)
        backbone = settings.pipeline.backbone
        self._backbone = BackboneInfo(engine.backbone.name, backbone.checkpoint)
        with self._lock:
            self._engine, self._outputs, self._why_not_configured = engine, outputs, ""
            if self._parameters_guard.settings != settings:
                self._apply(self._parameters_guard.settings)  # what changed meanwhile
        if backbone.name == "auto" and not backbone.checkpoint:
            self.get_logger().info(
                f"no backbone.checkpoint given: using the {engine.backbone.name} backbone, which needs none. "
                "`easi3r weights` lists the networks and where to get them"
            )
        return super().on_configure(state)

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)  # publishers first: the stream starts to publish at once
        settings = self._parameters_guard.settings
        world = World(self, settings, self._engine.backbone, self._outputs.tf, self._warn)
        stream = Stream(
            self, settings.node, self._engine, self._outputs, self._backbone, world, self._warn, self._error
        )
        self._stream = stream
        try:
            stream.start()
        except Exception as error:
            self._stream = None
            self._error(f"cannot activate: {_words(error)}", error)
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        unused = params.unused_qos(self)
        if unused:
            self._warn(
                f"QoS overrides without effect: {', '.join(unused)}. Names are qos_overrides.TOPIC.publisher.POLICY or "
                "TOPIC.subscription.POLICY, with the topic's full name, of a topic that is open"
            )
        self.get_logger().info(f"waiting for images on '{stream.topics.image}'")
        return result

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close_stream()
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close()
        return super().on_cleanup(state)

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close()
        return TransitionCallbackReturn.SUCCESS  # back to unconfigured

    def finish(self, patience: float) -> bool:
        """Before `destroy_node`: end transition and image in hand. False: not done after `patience` seconds."""
        end = time.monotonic() + patience
        self._ending = True
        if not self._transitions.join(patience):
            return False
        stream = self._stream
        done = stream is None or stream.close(max(0.0, end - time.monotonic()))
        return self._saving.join(max(0.0, end - time.monotonic())) and done

    def destroy_node(self) -> None:
        logging.getLogger("easi3r_ros").removeHandler(self._log_handler)
        release_state_machine(self)
        super().destroy_node()

    def _close_stream(self) -> None:
        """Returns when the image in hand is done."""
        stream = self._stream
        if stream:
            stream.close()
            with self._lock:
                self._stream = None
                self._engine.reset()
                self._outputs.restart()

    def _close(self) -> None:
        self._close_stream()
        with self._lock:
            outputs, self._outputs, self._engine, self._fixed = self._outputs, None, None, False
        if outputs:
            outputs.close()

    def _apply(self, settings: params.Settings) -> None:
        with self._lock:
            engine, outputs, stream = self._engine, self._outputs, self._stream
            if engine is None or outputs is None:
                return  # on_configure takes them at its end

            def apply() -> None:
                engine.reconfigure(settings.pipeline)
                outputs.reconfigure(settings)

            # Between two images; the worker does it even if it is about to stop.
            if stream is None or not stream.worker.call(apply):
                apply()

    def _on_restart(self, reason: str) -> None:
        self._warn(f"{reason}: tracking starts again in a new world")
        stream = self._stream
        if stream:
            stream.on_restart()

    async def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        stream, done = self._stream, Future()
        response.success = stream is not None and stream.reset(lambda: spinning.complete(self, done, None))
        response.message = "tracking starts again with the next image" if response.success else "the node is not active"
        if response.success:
            await done
            self.get_logger().info("reset by request: tracking starts again in a new world")
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        stream = self._stream
        response.success = stream is not None
        response.message = "the node is not active"
        if stream:
            stream.worker.pause(request.data)
            response.message = "paused" if request.data else "running"
            self.get_logger().info(response.message)
        return response

    async def _on_save_map(self, request: SaveMap.Request, response: SaveMap.Response) -> SaveMap.Response:
        outputs = self._outputs if self._stream is not None else None
        if outputs is None:
            response.message = "the node is not active"
            return response
        save = functools.partial(outputs.surroundings.save, request.path, request.overwrite)
        done = self._saving.begin("save_map", save)
        if done is None:
            response.message = "the map is being written already: ask again"
            return response
        response.success, response.message, path, response.points = await done
        response.path = "" if path is None else str(path)
        (self.get_logger().info if response.success else self._warn)(f"save_map: {response.message}")
        return response

    def _every_second(self) -> None:
        stream, name = self._stream, self.get_fully_qualified_name().lstrip("/")
        limits = self._parameters_guard.settings.node
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        if stream is None:
            message.status = [state_diagnostic(name, *self._why_not_active())]
        else:
            stream.check()
            self._look_around()
            silent = self._warn_if_silent(stream)
            came = stream.monitor.input_diagnostic(
                name,
                stream.topics.image,
                stream.worker.counts,
                silent,
                stream.worker.paused,
                self._why_silent,
                limits.diagnostics_max_lost,
            )
            starved = came.message if starves(came) else ""
            message.status = [came, stream.monitor.tracking_diagnostic(name, self._backbone, starved, limits)]
        self._diagnostics.publish(message)

    def _look_around(self) -> None:
        outputs = self._outputs
        if outputs is not None:
            self._neighbours.check(outputs.map_frame, outputs.others_in_map())

    def _why_not_active(self) -> tuple[bytes, str]:
        """Level of the diagnostic, and words."""
        job = self._transitions.job
        if job:
            return DiagnosticStatus.WARN, f"not active yet: {job} is under way"
        if self._why_not_configured:
            return DiagnosticStatus.ERROR, self._why_not_configured
        return DiagnosticStatus.WARN, "configured, not active" if self._engine else "not configured"

    def _warn_if_silent(self, stream: Stream) -> bool:
        """Whether no images come; the warning is given once per silence, and again if its cause turns out another."""
        timeout = self._parameters_guard.settings.node.image_timeout
        why = stream.why_silent() if stream.silent(timeout) else ""
        if why and why != self._why_silent:
            # Past the throttle, which would swallow the second of two silences.
            self.get_logger().warning(f"no images on '{stream.topics.image}' for {timeout:g} s: {why}")
        self._why_silent = why
        return bool(why)

    def callback_failed(self, error: Exception) -> None:
        """What a callback raised; the node goes on."""
        self._error(f"a request or a message could not be handled: {_words(error)}", error)

    def _warn(self, text: str) -> None:
        if self.context.ok() and self._throttle.allows(text):
            self.get_logger().warning(text)

    def _error(self, text: str, error: Exception) -> None:
        if self.context.ok() and self._throttle.allows(text):
            self.get_logger().error(text)
            self.get_logger().debug("".join(traceback.format_exception(error)))


def _service(node: LifecycleNode, type_: type) -> Service | None:
    """The node's own service of a type that it has once."""
    return next((service for service in node.services if service.srv_type is type_), None)


def _words(error: Exception) -> str:
    """The message alone where it was written for a person, else with the kind of error."""
    text = str(error).rstrip(".")
    return text if isinstance(error, (ConfigError, MissingLibrary, OSError)) else f"{type(error).__name__}: {text}"


def _start_words(error: Exception) -> str:
    """Where rcl only lists the arguments that it does not know, a sentence about them."""
    if type(error).__name__ != "UnknownROSArgsError":  # rclpy exports it nowhere
        return str(error)
    unknown = str(error).strip("[]").replace("'", "").replace(",", "")
    return (
        f"unknown ROS arguments: {unknown}. After --ros-args come -r FROM:=TO, -p NAME:=VALUE, --params-file FILE or "
        "--log-level LEVEL"
    )


def main(args: list[str] | None = None, make_pipeline: PipelineFactory = warm_pipeline) -> int:
    """Run the node until it is interrupted. Returns what `signals.leave` takes: 1 if the node could not start, else 0.

    Takes SIGINT and SIGTERM of this process over for good. What cannot be stopped soon is left running: an image or
    weights in hand.
    """
    interrupts = signals.take_over()
    interrupts.call(lambda: None)  # from now on it is enough that `came` is set
    try:
        return _run(args, make_pipeline, interrupts)
    finally:
        interrupts.finish()


def _run(args: list[str] | None, make_pipeline: PipelineFactory, interrupts: signals.Interrupts) -> int:
    try:
        # rclpy's own handlers shut the context down under whoever uses it.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = Easi3rNode(make_pipeline)
    except (RuntimeError, ConfigError) as error:  # RuntimeError: arguments or a parameters file that rcl cannot read
        print(f"easi3r: {_start_words(error)}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = spinning.executor_for(node)
    interrupts.call(lambda: spinning.interrupt(executor))
    if node.autostart and not interrupts.came.is_set():
        node.start()
    spinning.spin(executor, interrupts.came.is_set, node.callback_failed)
    node.finish(_END_PATIENCE)
    executor.shutdown(timeout_sec=0.0)  # it may hold what is destroyed now, and others would see us for long
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    signals.leave(main())
