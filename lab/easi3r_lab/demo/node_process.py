"""The node as a process of its own: started, watched, measured and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NODE = (sys.executable, "-m", "easi3r_ros.ros.node")
_PATIENCE = 15.0  # seconds that the node has to end after an interrupt
_LOG_TAIL = 15  # lines of the log that an error message quotes


class NodeFailed(RuntimeError):
    """The node died, or did not end when asked to; the message quotes the end of its log."""


class NodeProcess:
    """A running node."""

    def __init__(self, process: subprocess.Popen, log: Path):
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises NodeFailed if the node has ended."""
        status = self._process.poll()
        if status is not None:
            raise NodeFailed(f"the node ended with exit status {status}{self.log_tail()}")

    def peak_memory_mb(self) -> float:
        """Largest resident memory so far, MiB."""
        return self._memory_mb("VmHWM")

    def memory_mb(self) -> float:
        """Resident memory now, MiB."""
        return self._memory_mb("VmRSS")

    def cpu_seconds(self) -> float:
        """Time of all its threads on a core so far, by which other processes are left out."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime

    def _memory_mb(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:"))
        return int(kib) / 1024

    def interrupt(self) -> None:
        """End the node as Ctrl-C would. Raises NodeFailed if it does not end, or not with status 0."""
        self.check()
        self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            raise NodeFailed(f"the node did not end within {_PATIENCE:g} s of an interrupt{self.log_tail()}") from None
        if status != 0:
            raise NodeFailed(f"the node ended with exit status {status} after an interrupt{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of the log, for an error message."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]
        return f"; the end of {self._log}:\n" + "\n".join(f"    {line}" for line in lines)


@contextmanager
def running_node(
    domain_id: int, log: Path, arguments: Sequence[str] = (), command: Sequence[str] = NODE
) -> Iterator[NodeProcess]:
    """The node on a DDS domain of this machine, with its output in `log`. It never outlives the context.

    arguments: what follows --ros-args on its command line. command: the program that is the node.
    """
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--ros-args", *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            yield NodeProcess(process, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
