"""The node and what comes from the wild: late and equal stamps, refused images, odd frames, namesakes, a loop."""

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from easi3r_ros.msg import WindowStatus  # noqa: E402
from helpers_node import FakePipeline, RunningNode  # noqa: E402
from helpers_ros import Client, rgb_image, wait_until  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from easi3r_ros.messages.conversions import stamp_ns, time_message  # noqa: E402
from easi3r_ros.ros import neighbours  # noqa: E402
from easi3r_ros.ros.node import _start_words  # noqa: E402

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def client():
    client = Client("wild_tester")
    client.listen(Log, "/rosout", QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    client.listen(TFMessage, "/tf")
    client.listen(DiagnosticArray, "/diagnostics")
    for name, type_ in (("status", WindowStatus), ("mask", Image)):
        client.listen(type_, f"/wild/easi3r/{name}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def running(client):
    arguments = ["-r", "__ns:=/wild", "-p", "motion.threshold:=1", "-p", "map_frame:=/map", "-p", "use_sim_time:=true"]
    running = RunningNode(*arguments, "-p", "image_timeout:=2.0")
    client.connect("wild/easi3r", ("status", "mask"), lambda index: client.send(rgb_image(index), "/wild/image"))
    yield running
    running.close()


@pytest.fixture
def shoot(client, running):
    """Send an image with a stamp and wait until it was taken in; returns the latest status."""

    def shoot(stamp, counts="processed", **options):
        before = getattr(running.node._stream.worker.counts, counts)
        client.send(rgb_image(stamp, **options), "/wild/image")
        wait_until(lambda: getattr(running.node._stream.worker.counts, counts) == before + 1, f"{counts}: {stamp}")
        statuses = client.received["/wild/easi3r/status"]
        if counts == "processed":
            wait_until(lambda: statuses and stamp_ns(statuses[-1].header.stamp) == stamp, "its status")
        return statuses[-1] if statuses else None

    FakePipeline.trouble = []
    return shoot


def said(client, text):
    return [log.msg for log in client.received["/rosout"] if text in log.msg]


def diagnostic(client, kind):
    found = [s for m in client.received["/diagnostics"][-3:] for s in m.status if s.name == f"wild/easi3r: {kind}"]
    return found[-1] if found else DiagnosticStatus()


def test_a_whole_number_for_one_with_a_point(client, running):
    assert FakePipeline.latest.config.motion.threshold == 1.0
    assert client.set_parameter("motion.threshold", 0, "wild/easi3r").successful
    wait_until(lambda: FakePipeline.latest.config.motion.threshold == 0.0, "the change")
    answer = client.set_parameter("motion.threshold", 2, "wild/easi3r")
    assert not answer.successful and "must be in [0.0, 1.0]" in answer.reason
    answer = client.set_parameter("motion.threshold", "high", "wild/easi3r")
    assert not answer.successful and "must be float, got str" in answer.reason
    assert said(client, "frames have no slash in ROS 2, so it is 'map'")


def test_late_and_equal_stamps(client, running, shoot):
    shoot(100 * SECOND)
    client.received["/tf"].clear()
    restarts = running.node._stream.monitor.restarts
    shoot(100 * SECOND - 66_000_000, "dropped")
    shoot(100 * SECOND + 1)
    shoot(100 * SECOND + 1, index=3)
    shoot(100 * SECOND + 2)
    wait_until(lambda: len(client.received["/tf"]) >= 2, "two transforms")
    stamps = [stamp_ns(t.header.stamp) for m in client.received["/tf"] for t in m.transforms]
    assert stamps == [100 * SECOND + 1, 100 * SECOND + 2]
    assert said(client, "older than the one before it: it is left out as late")
    assert len(said(client, "images have equal stamps")) == 1
    assert running.node._stream.monitor.late == 1 and running.node._stream.monitor.restarts == restarts


def test_a_frame_that_tf2_refuses(client, running, shoot):
    client.received["/wild/easi3r/mask"].clear()
    status = shoot(101 * SECOND, frame_id="/cam")
    assert status.header.frame_id == "cam" and said(client, "which tf2 refuses: 'cam' is used")
    wait_until(lambda: client.received["/wild/easi3r/mask"], "a mask")
    assert client.received["/wild/easi3r/mask"][-1].header.frame_id == "cam"


def test_simulated_time_that_goes_back(client, running, shoot):
    for seconds in (20.0, 20.2):
        client.send(Clock(clock=time_message(int(seconds * SECOND))), "/clock")
    shoot(102 * SECOND)
    client.send(Clock(clock=time_message(19 * SECOND)), "/clock")
    wait_until(lambda: said(client, "simulated time jumped back by 1.200 s"), "a word")
    before = running.node._stream.monitor.late
    assert shoot(102 * SECOND - 1000).frame_index == 0, "a short loop, too, is a new world"
    assert running.node._stream.monitor.late == before


def test_nothing_is_green_while_every_image_is_refused(client, running, shoot):
    image = rgb_image(103 * SECOND)
    image.encoding = "32FC1"

    def refused():
        client.send(image, "/wild/image")
        return diagnostic(client, "input").level == DiagnosticStatus.ERROR

    wait_until(refused, "an error")
    assert "every image is refused" in diagnostic(client, "input").message
    wait_until(lambda: diagnostic(client, "tracking").level == DiagnosticStatus.STALE, "the tracking's")


def test_nothing_is_green_while_no_image_comes(client, running):
    def stale():
        found = diagnostic(client, "input")
        return found.level == DiagnosticStatus.STALE and "no images for" in found.message

    wait_until(stale, "stale", patience=15)
    assert diagnostic(client, "tracking").level == DiagnosticStatus.STALE


def test_a_namesake_is_told(client, running, monkeypatch):
    monkeypatch.setattr(neighbours, "PATIENCE", 0.0)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("easi3r", namespace="/wild", context=context)
    wait_until(lambda: said(client, "another node is called /wild/easi3r"), "a warning")
    node.destroy_node()
    context.shutdown()


class UnknownROSArgsError(RuntimeError):
    pass


def test_words_about_arguments():
    assert "unknown ROS arguments: --bananas --x." in _start_words(UnknownROSArgsError("['--bananas', '--x']"))
    assert _start_words(RuntimeError("other")) == "other"
