"""Real processes, interrupted at any moment: status 0, no traceback, and soon."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from helpers_ros import PROGRAM, Client, rgb_image, session_environment, wait_until  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 2.0  # seconds
INT, TERM = signal.SIGINT, signal.SIGTERM
SLOW = """
import sys, time
sys.path.insert(0, "test")
from helpers_node import FakePipeline

class Slow(FakePipeline):
    def __init__(self, config):
        if "slow_load" in sys.argv:
            print("loading", flush=True)
            time.sleep(1000)
        super().__init__(config)

    def push(self, frame):
        print("pushing", flush=True)
        time.sleep(1000)

from easi3r_ros.ros import signals
from easi3r_ros.ros.node import main
signals.leave(main(sys.argv, Slow))
"""
NODE = (sys.executable, "-u", *PROGRAM)
FAKE = (sys.executable, "-u", "-c", SLOW)


class Program:
    def __init__(self, folder, command, *arguments):
        self._log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**session_environment(), "OMP_NUM_THREADS": "1"},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self):
        return Path(self._log.name).read_text()

    def catches(self, number):
        """Whether the process has a handler for this signal by now."""
        caught = next(x for x in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if "SigCgt" in x)
        return int(caught.split()[1], 16) >> (number - 1) & 1

    def wait_for(self, condition, what):
        wait_until(lambda: condition() or self.process.poll() is not None, f"{what}; the log:\n{self.log}")
        assert self.process.poll() is None, f"it ended before {what}:\n{self.log}"

    def says(self, text):
        self.wait_for(lambda: text in self.log, text)

    def hammer(self, *numbers, pause):
        """Signals until it ends, or the limit is over."""
        start, sent = time.monotonic(), 0
        while self.process.poll() is None and time.monotonic() - start < LIMIT:
            self.process.send_signal(numbers[sent % len(numbers)])
            sent += 1
            time.sleep(pause)

    def ends_well(self, since):
        status = self.process.wait(60)
        seconds = time.monotonic() - since
        assert (status, "Traceback" in self.log, "terminate" in self.log) == (0, False, False), self.log
        assert seconds < LIMIT, f"{seconds:.1f} s:\n{self.log}"

    def close(self):
        self.process.kill()
        self.process.wait()
        self._log.close()


def is_gone(client):
    """Others know at once, and not only when they miss its signs of life, after 20 s."""
    wait_until(lambda: "easi3r" not in client.node.get_node_names(), "the node to leave the graph", patience=5)


@pytest.fixture
def run(tmp_path):
    programs = []

    def run(command, *arguments):
        programs.append(Program(tmp_path, command, *arguments))
        return programs[-1]

    yield run
    for program in programs:
        program.close()


@pytest.mark.parametrize(("numbers", "delay"), [((TERM,), 0.0), ((INT,), 0.3), ((INT, INT, INT), 1.0)])
def test_while_it_imports(run, numbers, delay):
    """From the first lines on, seconds before there is a node."""
    program = run(NODE)
    program.wait_for(lambda: program.catches(TERM), "a handler of SIGTERM")
    time.sleep(delay)
    since = time.monotonic()
    for number in numbers:
        program.process.send_signal(number)
    program.ends_well(since)
    assert "waiting for images" not in program.log


@pytest.mark.parametrize("numbers", [(INT,), (TERM,), (INT, TERM)])
def test_while_weights_load(run, numbers):
    program = run(FAKE, "slow_load")
    program.says("loading")
    since = time.monotonic()
    if len(numbers) == 1:
        program.process.send_signal(numbers[0])
    else:
        program.hammer(*numbers, pause=0.03)
    program.ends_well(since)


@pytest.mark.parametrize("number", [INT, TERM])
def test_with_an_image_in_hand(run, number):
    client = Client("interrupter")
    program = run(FAKE)
    program.says("waiting for images")
    for index in range(100):
        client.send(rgb_image(index), "/image")
        time.sleep(0.2)
        if "pushing" in program.log:
            break
    since = time.monotonic()
    program.process.send_signal(number)
    program.ends_well(since)
    is_gone(client)
    client.close()


@pytest.mark.parametrize("numbers", [(INT,), (TERM,), (TERM, INT)])
def test_while_it_waits_for_images(run, numbers):
    """And until its very end: the interpreter, too, takes its time."""
    program = run(NODE)
    program.says("waiting for images")
    since = time.monotonic()
    program.hammer(*numbers, pause=0.003)
    program.ends_well(since)


def test_one_is_enough(run):
    program = run(NODE, "--ros-args", "-p", "autostart:=false")
    client = Client("asker")
    assert client.state() == "unconfigured"
    since = time.monotonic()
    program.process.send_signal(TERM)
    program.ends_well(since)
    is_gone(client)
    client.close()


def test_a_node_that_cannot_start_still_says_so(run):
    program = run(NODE, "--ros-args", "-p", "tf_mode:=sideways")
    assert program.process.wait(60) == 1 and "must be one of" in program.log and "Traceback" not in program.log
