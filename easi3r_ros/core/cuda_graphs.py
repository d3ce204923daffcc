"""Calls of fixed shapes, recorded once and replayed as CUDA graphs: one launch instead of hundreds.

Graphs are recorded only where someone asks for it (a warm-up), so that no frame of a stream waits for that; calls of
which nothing was recorded are made in the ordinary way. If recording fails, everything is, after one warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from easi3r_ros.core.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

Function = Callable[..., tuple[Tensor, ...]]  # tensors (B, ...) to tensors (B, ...), row by row, no word to the host
LARGEST_ERROR = 1e-2  # relative; the precision of bfloat16
DRY_RUNS = 3  # before a recording: libraries choose algorithms and take their memory


class Recording(Protocol):
    """A function with its own inputs and outputs, computed anew at every `replay`."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def replay(self) -> None: ...


class CudaRecording:
    """Of a function on a CUDA device. Recordings of one `pool` share the memory of what is in between."""

    def __init__(self, function: Function, inputs: Sequence[Tensor], pool: object):
        self._device = device = inputs[0].device
        self.inputs = [x.clone() for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.device(device), torch.cuda.stream(side):
            for _ in range(DRY_RUNS):
                function(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        torch.cuda.synchronize(device)
        # thread_local: other threads of a node may talk to the device meanwhile.
        with (
            torch.cuda.device(device),
            torch.cuda.graph(self._graph, pool=pool, stream=side, capture_error_mode="thread_local"),
        ):
            self.outputs = function(*self.inputs)

    def replay(self) -> None:
        with torch.cuda.device(self._device):
            self._graph.replay()


class RecordedCalls:
    """Recordings by key and number of rows. Not thread-safe."""

    LIMIT = 24  # recordings: each keeps its inputs and outputs

    def __init__(self, device: torch.device, wanted: bool, record: Callable[..., Recording] = CudaRecording):
        """wanted: whether to record at all. record: (function, inputs, pool) -> Recording."""
        self._device, self._record = device, record
        self._enabled = wanted
        self._suspended = False
        self.clear()

    def clear(self) -> None:
        """Forget all recordings, and the memory that they hold."""
        self._recordings: dict[Hashable, dict[int, Recording]] = {}
        self._kept: list[object] = []
        self._pool: object = None

    def __len__(self) -> int:
        return sum(len(by_rows) for by_rows in self._recordings.values())

    @contextmanager
    def suspended(self):
        """While it is entered, calls are made in the ordinary way: for measurements that see only those."""
        self._suspended, before = True, self._suspended
        try:
            yield
        finally:
            self._suspended = before

    def record(self, key: Hashable, function: Function, inputs: Sequence[Tensor], keep: object = None) -> None:
        """Record `function` for as many rows as `inputs` have, unless that was done, or nothing is to be recorded.

        keep: what else the function reads, which must stay where it is.
        """
        rows = len(inputs[0])
        if not self._enabled or rows in self._recordings.get(key, {}) or len(self) >= self.LIMIT:
            return
        try:
            # Buffers made in inference mode could not be written to outside of it.
            with torch.inference_mode(False), torch.no_grad():
                if self._pool is None and self._device.type == "cuda":
                    self._pool = torch.cuda.graph_pool_handle()
                recording = self._record(function, inputs, self._pool)
                _check(recording, function(*inputs))
        except Exception as error:
            self._give_up(error)
            return
        self._recordings.setdefault(key, {})[rows] = recording
        self._kept.append(keep)

    def call(self, key: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `function` answers, from the recording of the fewest rows that are enough, else in the ordinary way."""
        count = len(inputs[0])
        enough = [] if self._suspended else [n for n in self._recordings.get(key, ()) if n >= count]
        if not enough:
            return function(*inputs)
        recording = self._recordings[key][min(enough)]
        with torch.inference_mode(False), torch.no_grad():
            for own, given in zip(recording.inputs, inputs, strict=True):
                own[:count].copy_(given)  # what rows are left keep what they had: nobody reads their answers
        recording.replay()
        # Copies: the next replay writes over the recording's own.
        return tuple(output[:count].clone() for output in recording.outputs)

    def _give_up(self, error: Exception) -> None:
        reason = "memory ran out" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        log.warning("CUDA graphs are not used from now on, which costs time alone (%s)", reason.splitlines()[0])
        self.clear()
        self._enabled = False


def _check(recording: Recording, expected: Sequence[Tensor]) -> None:
    """Raises RuntimeError if a replay does not give what the function gives."""
    recording.replay()
    for ours, reference in zip(recording.outputs, expected, strict=True):
        difference = (ours.float() - reference.float()).norm()
        if difference > LARGEST_ERROR * reference.float().norm():  # false for a network whose answers are no numbers
            raise RuntimeError("a replay gives something else than the calls that were recorded")
