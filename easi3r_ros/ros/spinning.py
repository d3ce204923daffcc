"""How the node's callbacks run: all on one thread, and none of them waits.

What takes long is done by other threads; a callback that needs their answer is a coroutine, and others run meanwhile.
rclpy's MultiThreadedExecutor would let callbacks wait, but it spins: while a thread of its pool takes a message, the
subscription is not waited for, its events are, and they wake the executor for the message: thousands of times a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

# If not a callback but the executor itself fails, it may do so at once, again and again.
_BREATH = 0.1


def executor_for(node: Node) -> SingleThreadedExecutor:
    """The kind that the node is made for."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    return executor


def spin(executor: Executor, stopped: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
    """Call what is due until stopped() or the end of the executor's context; `interrupt` makes it look.

    failed(error): what a callback raised. It ends that callback alone: no request can end the node.
    """
    while not stopped() and executor.context.ok():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            return
        except Exception as error:
            failed(error)
            time.sleep(_BREATH)


def interrupt(executor: Executor) -> None:
    """Make `spin` look whether it is stopped. From any thread."""
    with suppress(InvalidHandle):
        executor.create_task(lambda: None)


def wake(node: Node) -> None:
    """Make the node's executor look again at what it waits for. From any thread."""
    executor = node.executor
    if executor is not None:
        with suppress(InvalidHandle):  # it ends just now
            executor.wake()


class Gate(MutuallyExclusiveCallbackGroup):
    """What is in this group is left where it comes from while is_open() says no; `wake` the node when that changes."""

    def __init__(self, is_open: Callable[[], bool]):
        super().__init__()
        self._is_open = is_open

    def can_execute(self, entity: Any) -> bool:
        return self._is_open() and super().can_execute(entity)


def complete(node: Node, future: Future, result: Any) -> None:
    """Let the coroutine of the node that awaits `future` go on. From any thread."""
    future.set_result(result)
    wake(node)  # Humble and Jazzy look at what is awaited only when something else happens


class Background:
    """Does what takes long on a thread of its own, one job at a time."""

    def __init__(self, node: Node):
        self._node = node
        self._lock = threading.Lock()
        self._job = ""
        self._thread: threading.Thread | None = None

    @property
    def job(self) -> str:
        """What is being done; empty: nothing."""
        return self._job

    def begin(self, name: str, job: Callable[[], Any]) -> Future | None:
        """The future result of `job`, which must not raise. None: refused, because another job is not done."""
        with self._lock:
            if self._job:
                return None
            self._job = name
            future = Future()
            self._thread = threading.Thread(target=self._run, args=(job, future), name=f"easi3r-{name}", daemon=True)
            self._thread.start()
        return future

    def join(self, patience: float | None = None) -> bool:
        """Wait for the end of the job. False: it is not done after `patience` seconds."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)
        return not self._job

    def _run(self, job: Callable[[], Any], future: Future) -> None:
        result = None
        try:
            result = job()
        finally:
            self._job = ""
            complete(self._node, future, result)
