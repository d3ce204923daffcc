"""Starting, watching and ending a process that stands for the node."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from easi3r_lab.demo import node_process
from easi3r_lab.demo.node_process import NodeFailed, running_node

WAIT = "import signal, time\nprint('ready', flush=True)\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    {}\n"


@pytest.fixture
def run(tmp_path):
    """run(program): a context with `python -c program` as the node."""
    return lambda program, *arguments: running_node(
        7, tmp_path / "node.log", arguments, command=(sys.executable, "-c", program)
    )


def until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def says_ready(log: Path) -> bool:
    return "ready" in log.read_text()


def test_interrupt_ends_it_cleanly(run, tmp_path):
    with run(WAIT.format("print('bye')")) as node:
        until(partial(says_ready, tmp_path / "node.log"))
        node.check()
        node.interrupt()
    assert (tmp_path / "node.log").read_text().split() == ["ready", "bye"]


def test_its_surroundings(run, tmp_path):
    program = (
        "import os, sys\nprint(os.environ['ROS_DOMAIN_ID'], os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'], *sys.argv[1:])"
    )
    with run(program, "-p", "bag_mode:=true"):
        until(lambda: "bag_mode" in (tmp_path / "node.log").read_text())
    assert (tmp_path / "node.log").read_text().split() == ["7", "LOCALHOST", "--ros-args", "-p", "bag_mode:=true"]


def test_death_is_noticed_with_its_last_words(run):
    with run("raise SystemExit('no such checkpoint')") as node:
        with pytest.raises(NodeFailed, match=r"exit status 1(.|\n)*no such checkpoint"):
            until(lambda: node.check())
        with pytest.raises(NodeFailed, match="exit status 1"):
            node.interrupt()


def test_bad_exit_status_after_an_interrupt(run, tmp_path):
    with run(WAIT.format("raise SystemExit(3)")) as node:
        until(partial(says_ready, tmp_path / "node.log"))
        with pytest.raises(NodeFailed, match="exit status 3 after an interrupt"):
            node.interrupt()


def test_a_node_that_will_not_end_is_killed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(node_process, "_PATIENCE", 0.3)
    with run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + WAIT.format("pass")) as node:
        until(partial(says_ready, tmp_path / "node.log"))
        with pytest.raises(NodeFailed, match="did not end within 0.3 s"):
            node.interrupt()
        pid = node.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_never_outlives_the_context(run):
    with pytest.raises(RuntimeError, match="something else"), run(WAIT.format("pass")) as node:
        pid = node.pid
        raise RuntimeError("something else")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_peak_memory_is_a_peak(run, tmp_path):
    with run("x = bytearray(80 << 20)\ndel x\n" + WAIT.format("pass")) as node:
        until(partial(says_ready, tmp_path / "node.log"))
        assert 80 < node.peak_memory_mb() < 200
