"""The launch files with the real `ros2 launch`, where ROS 2 has it: what is started, what comes, and how it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="ros2 launch comes with an apt ROS 2, not with the wheels")
if shutil.which("ros2") is None:
    pytest.skip("launch is here, but the command ros2 is not", allow_module_level=True)

from ament_index_python.packages import PackageNotFoundError, get_package_prefix  # noqa: E402
from helpers_io import camera_info, raw_image, stamp, write_bag  # noqa: E402
from helpers_ros import Client, rgb_image, session_environment, wait_until  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

try:
    get_package_prefix("easi3r_ros")
except PackageNotFoundError:
    pytest.skip("easi3r_ros is not installed: colcon build, then source install/setup.bash", allow_module_level=True)

FILES = Path(__file__).resolve().parents[1] / "launch"
PATIENCE = 90.0  # Python, launch and torch start one after the other


class Launch:
    """`ros2 launch FILE ARGUMENTS` in a process group and with a temporary folder of its own, as in a terminal."""

    def __init__(self, folder: Path, file: Path, *arguments: str):
        self.temporary, self._log = folder / "tmp", folder / "launch.log"
        self.temporary.mkdir()
        environment = session_environment() | {
            "TMPDIR": str(self.temporary),
            "ROS_LOG_DIR": str(folder / "log"),
            "RCUTILS_COLORIZED_OUTPUT": "0",
            "OMP_NUM_THREADS": "1",
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["ros2", "launch", str(file), *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str) -> re.Match:
        def said() -> re.Match | None:
            return re.search(pattern, self.log)

        wait_until(lambda: said() or self._process.poll() is not None, f"{pattern!r} in:\n{self.log}", PATIENCE)
        assert said(), f"the launch ended without {pattern!r}:\n{self.log}"
        return said()

    def pid_of(self, name: str) -> int:
        return int(self.wait_for(rf"\[{name}-\d+\]: process started with pid \[(\d+)\]")[1])

    def interrupt(self) -> int:
        """Ctrl-C, which a terminal sends to launch and to what it started alike; the exit status."""
        os.killpg(self._process.pid, signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the launch does not end:\n{self.log}") from None

    def leftovers(self) -> list[str]:
        """Processes that still run and files in the temporary folder, but for those that launch_ros always leaves."""
        pids = re.findall(r"process started with pid \[(\d+)\]", self.log)
        files = [path.name for path in self.temporary.iterdir() if not path.name.startswith("launch_params_")]
        return [f"process {pid}" for pid in pids if Path(f"/proc/{pid}").exists()] + files

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()  # launch then ends what it started
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


@pytest.fixture
def launch(tmp_path):
    started: list[Launch] = []

    def start(file: Path | str, *arguments: str) -> Launch:
        started.append(Launch(tmp_path, FILES / file, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.close()


def bag(folder: Path, camera: str, count: int) -> Path:
    """`count` images on /CAMERA/image_raw."""
    messages = []
    for index in range(count):
        image, info = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
        messages.append((f"/{camera}/image_raw", image, stamp(index), raw_image(index)))
        messages.append((f"/{camera}/camera_info", info, stamp(index), camera_info(index)))
    return write_bag(folder, messages)


@pytest.mark.parametrize("name", ["camera", "rosbag"])
def test_arguments_are_shown(launch, name):
    shown = launch(f"{name}.launch.py", "--show-args")
    assert shown.wait() == 0
    assert {"image", "params_file", "namespace"} <= set(re.findall(r"^    '(\w+)':$", shown.log, re.MULTILINE))


@pytest.mark.timeout(300)
def test_a_camera(launch):
    process, client = launch("camera.launch.py", "image:=/cam/image_rect", "device:=cpu"), Client()
    try:
        process.wait_for("waiting for images on '/cam/image_rect'")
        assert client.state() == "active"
        assert client.get_parameter("backbone.device").string_value == "cpu"
        client.listen(Image, "/easi3r/mask")
        masks = client.received["/easi3r/mask"]
        for second in range(1, 60):  # what is sent before both sides have found each other is lost
            client.send(rgb_image(second * 10**9), "/cam/image_rect")
            with suppress(AssertionError):
                wait_until(lambda: masks, "a mask", patience=1.0)
                break
        assert masks and masks[0].encoding == "mono8"
    finally:
        client.close()
    assert process.interrupt() == 0
    assert "process has finished cleanly" in process.log and "ERROR" not in process.log
    assert process.leftovers() == []


@pytest.mark.timeout(300)
def test_a_launch_ends_with_its_node(launch):
    process = launch("camera.launch.py")
    process.wait_for("waiting for images")
    os.kill(process.pid_of("node"), signal.SIGKILL)
    process.wait()
    assert process.leftovers() == []


@pytest.mark.timeout(300)
def test_a_bag_from_its_first_image_to_its_last(launch, tmp_path):
    process = launch("rosbag.launch.py", f"bag:={bag(tmp_path / 'bag', 'cam', 6)}", "image:=/cam/image_raw")
    assert process.wait() == 0, process.log
    assert "the node is done: 6 results" in process.log and "ERROR" not in process.log
    assert process.leftovers() == []


TWO = """
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

def include(namespace, bag):
    arguments = {{"bag": bag, "image": f"/{{namespace}}/image_raw", "namespace": namespace}}
    return IncludeLaunchDescription(PythonLaunchDescriptionSource("{file}"), launch_arguments=arguments.items())

def generate_launch_description():
    return LaunchDescription([include("left", "{left}"), include("right", "{right}")])
"""


@pytest.mark.timeout(300)
def test_two_bags_in_one_launch(launch, tmp_path):
    left, right = bag(tmp_path / "l", "left", 4), bag(tmp_path / "r", "right", 7)
    both = tmp_path / "two.launch.py"
    both.write_text(TWO.format(file=FILES / "rosbag.launch.py", left=left, right=right))
    process = launch(both)
    assert process.wait() == 0, process.log
    assert sorted(re.findall(r"the node is done: (\d+) results", process.log)) == ["4", "7"]
    assert "ERROR" not in process.log and process.leftovers() == []


def test_a_bag_that_is_not_there(launch, tmp_path):
    process = launch("rosbag.launch.py", f"bag:={tmp_path / 'nothing'}")
    assert process.wait() == 1
    assert "there is no bag" in process.log and "process started" not in process.log


@pytest.mark.timeout(300)
def test_a_player_that_dies(launch, tmp_path):
    process = launch(
        "rosbag.launch.py", f"bag:={bag(tmp_path / 'bag', 'cam', 6)}", "image:=/cam/image_raw", "rate:=0.01"
    )
    process.wait_for("waiting for images")
    os.kill(process.pid_of("(?:easi3r|ros2)"), signal.SIGKILL)
    assert process.wait() == 1
    assert "failed with exit status -9" in process.log and process.leftovers() == []
