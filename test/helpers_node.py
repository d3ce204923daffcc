"""The node inside the test's own process, with a pretended pipeline."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import rclpy
from helpers_ros import session_environment

from easi3r_ros.core.types import FrameResult, TrackingState
from easi3r_ros.ros import spinning
from easi3r_ros.ros.node import Easi3rNode

SPINNER = "the node's thread"


class FakePipeline:
    """Answers at once; `trouble` holds exceptions for the next pushes; the last one made is `latest`."""

    trouble: list[Exception] = []
    latest = None

    def __init__(self, config):
        self.config = config
        self.backbone = SimpleNamespace(name="fake", has_attention=False, default_offsets=(1, 2))
        self.resets = 0
        FakePipeline.latest = self

    def reset(self):
        self.resets += 1

    def reconfigure(self, config):
        self.config = config

    def push(self, frame):
        if FakePipeline.trouble:
            raise FakePipeline.trouble.pop(0)
        shape = frame.image.shape[:2]
        K = np.diag([50.0, 50, 1]) if frame.K is None else frame.K
        ones = np.ones(shape, np.float32)
        return FrameResult(
            frame=frame,
            mask=ones > 0,
            probability=ones,
            depth=ones,
            confidence=2 * ones,
            K=K,
            world_from_cam=np.eye(4),
            covariance=np.eye(6),
            state=TrackingState.TRACKING,
            reason="",
            metric=True,
            residual=0.0,
            dynamic_fraction=1.0,
            window=(frame.index,),
            latency_ms={"all": 1.0},
            evidence={},
        )


class RunningNode:
    """The node, spinning in a thread as `main` has it; it starts itself unless the parameter autostart is false."""

    def __init__(self, *arguments, make_pipeline=FakePipeline):
        session_environment()
        self.context = rclpy.Context()
        rclpy.init(context=self.context, args=["--ros-args", *arguments])
        self.node = Easi3rNode(make_pipeline, context=self.context)
        self.errors = []
        self._stopped = threading.Event()
        self._executor = spinning.executor_for(self.node)
        if self.node.autostart:
            self.node.start()
        spin = (self._executor, self._stopped.is_set, self.errors.append)
        self._thread = threading.Thread(target=spinning.spin, args=spin, name=SPINNER, daemon=True)
        self._thread.start()

    def soon(self, callback):
        """Call it on the node's own thread."""
        self._executor.create_task(callback)

    def close(self):
        self._stopped.set()
        spinning.interrupt(self._executor)
        self._thread.join(10)
        assert self.node.finish(10)
        self.node.destroy_node()
        self.context.shutdown()
