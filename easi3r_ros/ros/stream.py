"""One activation of the node: images from the subscription through worker and engine to the outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rclpy.lifecycle import LifecycleNode

from easi3r_ros.core.continuity import LateImage
from easi3r_ros.messages.bit_depth import ImageReader
from easi3r_ros.messages.calibration import CameraModel
from easi3r_ros.messages.conversions import stamp_ns
from easi3r_ros.messages.images import ConversionError
from easi3r_ros.messages.plausible import tf_name
from easi3r_ros.messages.status import BackboneInfo, Timing, status_message, total_latency_ms
from easi3r_ros.ros.brake import PlayerBrake, room_for
from easi3r_ros.ros.companions import Companions
from easi3r_ros.ros.inputs import CameraInput, camera_topics
from easi3r_ros.ros.monitor import Monitor
from easi3r_ros.ros.outputs import Outputs
from easi3r_ros.ros.params import NodeConfig
from easi3r_ros.ros.spinning import wake
from easi3r_ros.ros.tracker import Tracker
from easi3r_ros.ros.worker import Worker
from easi3r_ros.ros.world import World

_BAG_CAPACITY = 4
# A camera_info that somebody publishes is waited for this long, so that tracking need not start twice.
_INFO_PATIENCE = 2.0


@dataclass(frozen=True)
class Arrival:
    message: Any  # sensor_msgs Image or CompressedImage
    when: float  # perf_counter seconds


class Stream:
    """From `start` to `close`, of `world` too.

    warn(text), error(text, exception): for a person; may be called from any thread.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        engine: Tracker,
        outputs: Outputs,
        backbone: BackboneInfo,
        world: World,
        warn: Callable[[str], None],
        error: Callable[[str, Exception], None],
    ):
        self._node = node
        self._engine = engine
        self._outputs = outputs
        self._backbone = backbone
        self._world = world
        self._error = error
        reader = ImageReader(config.image_bits)
        self._read = {"raw": reader.raw, "compressed": reader.compressed}[config.image_transport]
        self._first = True
        self.monitor = Monitor()
        self.topics = camera_topics(node, config.image_transport)
        self._camera = CameraModel(_is_rectified(config, self.topics.image), warn, config.camera_info_strict)
        self._config = config
        self._warn = warn
        self.worker: Worker[Arrival] = Worker(
            self._process,
            self._failed,
            lossless=config.bag_mode,
            capacity=_BAG_CAPACITY if config.bag_mode else 1,
            on_room=lambda: wake(node),
        )
        self._input: CameraInput | None = None
        self._brake = PlayerBrake(node) if config.bag_mode else None
        self._companions = Companions(node, config, outputs, warn)

    def start(self) -> None:
        """Raises RuntimeError for a QoS override that does not exist."""
        self.worker.start()  # before the first image can come
        try:
            self._companions.open()
            self._input = CameraInput(
                self._node,
                self.topics,
                self._config.image_transport,
                self._config.bag_mode,
                on_image=self._on_image,
                is_ready=self.worker.has_room,
                on_info=self._camera.update,
                on_lost=self.monitor.image_lost,
                warn=self._warn,
            )
        except Exception:
            self._companions.close()
            self.worker.stop()
            raise

    def silent(self, seconds: float) -> bool:
        """No image came for so long, although one could have been taken."""
        return self.worker.idle and self.monitor.silence > seconds

    def why_silent(self) -> str:
        camera = self._input
        return camera.why_silent() if camera else ""

    def check(self) -> None:
        """Find out, and say, what went wrong with the input since the last call."""
        camera = self._input
        if camera:
            camera.check()
            self._companions.check()

    def close(self, patience: float | None = None) -> bool:
        """Take no more images, finish the one in hand, then stop.

        patience: seconds to wait for it; None: as long as it takes. False: it is still in hand.
        """
        camera, self._input = self._input, None
        if camera:
            camera.close()
        self._camera.stop_waiting()
        if self._brake:
            self._brake.close()
        self._world.close()
        self._companions.close()
        return self.worker.stop(patience)

    def reset(self, done: Callable[[], None]) -> bool:
        """Drop what waits and start a new world with the next image; done() is called after the image in hand.

        False: it will not be called, because the stream has come to its end.
        """

        def reset() -> None:
            try:
                self._engine.reset()
                self.on_restart()
            finally:
                done()

        return self.worker.flush(reset)

    def on_restart(self) -> None:
        """The engine started a new world."""
        self.monitor.restarted()
        self._world.placing.restart()
        self._outputs.restart()
        self._companions.restart()

    def _on_image(self, message: Any) -> None:
        self.monitor.image_came()
        if self._brake:
            self.worker.make_room(room_for(len(message.data), _BAG_CAPACITY))
        self.worker.submit(Arrival(message, time.perf_counter()))
        self._weigh()

    def _weigh(self) -> None:
        if self._brake:
            self._brake.weigh(self.worker.waiting, self.worker.capacity)

    def _process(self, arrival: Arrival) -> bool:
        """False: the image is late and left out."""
        self._weigh()
        header = self._named(arrival.message.header)
        image = self._read(arrival.message)
        if self._first:
            self._await_calibration()
        info, K = self._camera.matching((image.shape[1], image.shape[0]), header.frame_id)
        lens = self._camera.lens
        stamp = stamp_ns(header.stamp)
        size = (image.shape[1], image.shape[0])
        excluded = self._companions.before(stamp, size)
        try:
            result = self._engine.process(image, stamp, header.frame_id, K, excluded, lens)
        except LateImage as late:
            self.monitor.late += 1
            self._warn(f"'{self.topics.image}': {late}")
            return False
        result = self._world.placing.place(result)
        body = self._companions.body(size)
        if lens is not None and body is not None:
            body = lens.rectify_mask(body)
        self._outputs.publish(result, header, info, body)
        self._companions.publish(result.as_received, arrival.message, info)
        latency_ms = (time.perf_counter() - arrival.when) * 1e3
        self.monitor.finished(result, latency_ms)
        total_ms = total_latency_ms(self._node.get_clock().now().nanoseconds, header)
        counts = self.worker.counts
        self._outputs.publish_status(
            status_message(
                result,
                header,
                [self._engine.stamp_ns(index) for index in result.window],
                self._backbone,
                Timing(latency_ms, total_ms, self.monitor.frame_rate),
                replace(counts, processed=counts.processed + 1),
            )
        )
        return True

    def _await_calibration(self) -> None:
        """Before the first image."""
        self._first = False
        publishers = self._node.count_publishers(self.topics.info)
        if publishers:
            self._camera.wait(_INFO_PATIENCE)
        if not self._camera.known:
            who = f"{publishers} publishers sent nothing" if publishers else "nobody publishes it"
            self._warn(
                f"no camera_info on '{self.topics.info}' ({who}): the focal length is estimated from "
                "backbone.horizontal_fov and the images, and lens distortion stays in them. Once one comes, tracking "
                "starts again with it"
            )

    def _named(self, header: Any) -> Any:
        """The header with a frame that tf2 takes, which then is in all outputs."""
        name = tf_name(header.frame_id)
        if name != header.frame_id:
            self._warn(f"the images have frame_id '{header.frame_id}', which tf2 refuses: '{name}' is used")
            header.frame_id = name
        return header

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ConversionError):
            text = f"image on '{self.topics.image}' left out: {error}"
        else:
            # After a failure half-way the pipeline's memory cannot be trusted.
            self._engine.reset()
            self.on_restart()
            text = f"image left out, tracking starts again: {type(error).__name__}: {error}"
        self.monitor.failed(text)
        self._error(text, error)


def _is_rectified(config: NodeConfig, topic: str) -> bool:
    return config.image_rectified == "yes" or (config.image_rectified == "auto" and "rect" in topic)
