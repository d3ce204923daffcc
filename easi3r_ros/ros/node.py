"""The ROS 2 node `easi3r`: a lifecycle node that turns a camera's images into masks, poses, depth and clouds."""

from __future__ import annotations

import logging
import sys
import traceback

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from easi3r_ros.core.backbone import suit_threads
from easi3r_ros.core.config import ConfigError
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.messages.status import BackboneInfo
from easi3r_ros.ros import params
from easi3r_ros.ros.logs import RosLogHandler, Throttle
from easi3r_ros.ros.monitor import state_diagnostic
from easi3r_ros.ros.outputs import Outputs
from easi3r_ros.ros.stream import Stream
from easi3r_ros.ros.tracker import PipelineFactory, Tracker

_REPEAT_SECONDS = 10.0
# One thread may be blocked by bag mode's back-pressure and one may load weights; services and timers need a third.
_EXECUTOR_THREADS = 3


class Easi3rNode(LifecycleNode):
    """configure reads the parameters and loads the weights, activate opens the subscriptions.

    Raises ConfigError if a parameter given at start cannot work.
    """

    def __init__(self, make_pipeline: PipelineFactory = Pipeline, **node_options):
        super().__init__("easi3r", **node_options)
        self._make_pipeline = make_pipeline
        self._engine: Tracker | None = None
        self._outputs: Outputs | None = None
        self._stream: Stream | None = None
        self._why_silent = ""
        self._throttle = Throttle(_REPEAT_SECONDS)
        self._log_handler = RosLogHandler(self.get_logger())
        logging.getLogger("easi3r_ros").addHandler(self._log_handler)
        logging.getLogger("easi3r_ros").setLevel(logging.DEBUG)  # the node's own logger decides what is said
        settings = params.declare(self)
        unknown = params.unknown_overrides(self)
        if unknown:
            self._warn(f"ignoring unknown parameters: {', '.join(unknown)} (see `ros2 param list`)")
        self._parameters_guard = params.ParameterGuard(self, settings, lambda: self._engine is not None, self._apply)
        self.autostart = settings.node.autostart
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self._answer_every_change_request()
        # Wall time: with simulated time a paused bag would silence the diagnostics about it.
        self.create_timer(1.0, self._every_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _answer_every_change_request(self) -> None:
        """Refuse a transition that the state does not have; rclpy raises instead, which would end the process."""
        service = self._service_change_state
        change = service.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change(request, response)
            except RuntimeError as error:
                self._warn(f"lifecycle transition {request.transition.id} refused: {error}")
                response.success = False
                return response

        service.callback = answer

    def start(self) -> None:
        """Configure and activate without a lifecycle manager."""
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        settings = self._parameters_guard.settings
        try:
            engine = Tracker(settings.pipeline, self._on_restart, self._make_pipeline)
            self._outputs = Outputs(self, settings, self._warn)
        except Exception as error:  # a lifecycle node answers every failure with a state, never with its end
            self._error(f"cannot configure: {_words(error)}. Correct the parameters and configure again", error)
            return TransitionCallbackReturn.FAILURE
        self._engine = engine
        suit_threads(engine.backbone)
        backbone = settings.pipeline.backbone
        self._backbone = BackboneInfo(engine.backbone.name, backbone.checkpoint)
        if backbone.name == "auto" and not backbone.checkpoint:
            self.get_logger().info(
                f"no backbone.checkpoint given: using the {engine.backbone.name} backbone, which needs none. "
                "`easi3r weights` lists the networks and where to get them"
            )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)  # publishers first: the stream starts to publish at once
        config = self._parameters_guard.settings.node
        try:
            self._stream = Stream(self, config, self._engine, self._outputs, self._backbone, self._warn, self._error)
        except Exception as error:
            self._error(f"cannot activate: {_words(error)}", error)
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"waiting for images on '{self._stream.topics.image}'")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close_stream()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close()
        return TransitionCallbackReturn.SUCCESS  # back to unconfigured

    def destroy_node(self) -> None:
        self._close_stream()
        logging.getLogger("easi3r_ros").removeHandler(self._log_handler)
        super().destroy_node()

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream:
            stream.close()
            self._engine.reset()
            self._outputs.restart()

    def _close(self) -> None:
        self._close_stream()
        if self._outputs:
            self._outputs.close()
        self._outputs = self._engine = None

    def _apply(self, settings: params.Settings) -> None:
        def apply() -> None:
            self._engine.reconfigure(settings.pipeline)
            self._outputs.reconfigure(settings)

        if self._stream:
            self._stream.worker.call(apply)  # between two images
        else:
            apply()

    def _on_restart(self, reason: str) -> None:
        self._warn(f"{reason}: tracking starts again in a new world")
        if self._stream:
            self._stream.on_restart()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._stream is not None
        response.message = "tracking starts again with the next image" if response.success else "the node is not active"
        if self._stream:
            self._stream.reset()
            self.get_logger().info("reset by request: tracking starts again in a new world")
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success = self._stream is not None
        response.message = "the node is not active"
        if self._stream:
            self._stream.worker.pause(request.data)
            response.message = "paused" if request.data else "running"
            self.get_logger().info(response.message)
        return response

    def _every_second(self) -> None:
        stream, name = self._stream, self.get_name()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        if stream is None:
            text = "configured, not active" if self._engine else "not configured"
            message.status = [state_diagnostic(name, DiagnosticStatus.WARN, text)]
        else:
            silent = self._warn_if_silent(stream)
            message.status = [
                stream.monitor.input_diagnostic(
                    name, stream.topics.image, stream.worker.counts, silent, stream.worker.paused
                ),
                stream.monitor.tracking_diagnostic(name, self._backbone),
            ]
        self._diagnostics.publish(message)

    def _warn_if_silent(self, stream: Stream) -> bool:
        """Whether no images come; the warning is given once per silence, and again if its cause turns out another."""
        timeout = self._parameters_guard.settings.node.image_timeout
        why = stream.why_silent() if stream.silent(timeout) else ""
        if why and why != self._why_silent:
            # Past the throttle, which would swallow the second of two silences.
            self.get_logger().warning(f"no images on '{stream.topics.image}' for {timeout:g} s: {why}")
        self._why_silent = why
        return bool(why)

    def _warn(self, text: str) -> None:
        if self.context.ok() and self._throttle.allows(text):
            self.get_logger().warning(text)

    def _error(self, text: str, error: Exception) -> None:
        if self.context.ok() and self._throttle.allows(text):
            self.get_logger().error(text)
            self.get_logger().debug("".join(traceback.format_exception(error)))


def _words(error: Exception) -> str:
    """The message alone where it was written for a person, else with the kind of error."""
    text = str(error).rstrip(".")
    return text if isinstance(error, (ConfigError, OSError)) else f"{type(error).__name__}: {text}"


def main(args: list[str] | None = None, make_pipeline: PipelineFactory = Pipeline) -> int:
    """Run the node until it is interrupted. The exit status is 1 if it could not start."""
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # a parameters file or a command line that rcl cannot read
        print(f"easi3r: {error}", file=sys.stderr)
        return 1
    node = None
    try:
        node = Easi3rNode(make_pipeline)
        executor = MultiThreadedExecutor(_EXECUTOR_THREADS)
        executor.add_node(node)
        if node.autostart:
            node.start()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ConfigError as error:
        print(f"easi3r: {error}", file=sys.stderr)
        return 1
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
