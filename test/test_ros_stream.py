"""The node inside this process with a pretended pipeline: what a real one cannot be made to do on demand."""

import os

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from easi3r_ros.msg import WindowStatus
from helpers_node import FakePipeline, RunningNode  # noqa: E402
from helpers_ros import Client, camera_info, rgb_image, wait_until  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402

from easi3r_ros.messages import results


@pytest.fixture(scope="module")
def client():
    client = Client("stream_tester")
    client.listen(Log, "/rosout", QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    for name, type_ in (("status", WindowStatus), ("mask", Image), ("mask/camera_info", CameraInfo)):
        client.listen(type_, f"/easi3r/{name}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def running(client):
    running = RunningNode("-p", "tf_mode:=none", "-p", "motion.treshold:=0.3", "-p", "window.offsets:=[1, 4, 9]")
    client.connect("easi3r", ("status", "mask"), lambda index: client.send(rgb_image(index), "/image"))
    yield running
    running.close()


def now_ns(running):
    return running.node.get_clock().now().nanoseconds


@pytest.fixture
def shoot(client, running):
    """Send an image; returns its status once that is there."""

    def shoot():
        stamp = now_ns(running)
        client.send(rgb_image(stamp), "/image")
        statuses = client.received["/easi3r/status"]
        wait_until(
            lambda: statuses and statuses[-1].header.stamp.nanosec == stamp % 1_000_000_000, f"a status of {stamp}"
        )
        return statuses[-1]

    FakePipeline.trouble = []
    return shoot


def said(client, text):
    return [log.msg for log in client.received["/rosout"] if text in log.msg]


def test_parameters_at_start(client, running):
    assert FakePipeline.latest.config.window.offsets == (1, 4, 9)
    wait_until(lambda: said(client, "ignoring unknown parameters: motion.treshold"), "a warning")


def test_an_error_of_the_pipeline_costs_one_image(client, running, shoot):
    shoot()
    resets = FakePipeline.latest.resets
    FakePipeline.trouble = [RuntimeError("matrix is singular")]
    client.send(rgb_image(now_ns(running)), "/image")
    text = "image left out, tracking starts again: RuntimeError: matrix is singular"
    wait_until(lambda: said(client, text), "the error")
    assert shoot().frame_index == 0, "a new world, because the old one cannot be trusted"
    assert FakePipeline.latest.resets > resets and len(said(client, text)) == 1


def test_status_of_a_metric_backbone(shoot):
    status = shoot()
    assert status.scale_state == WindowStatus.SCALE_METRIC and status.backbone == "fake"
    assert 0 <= status.total_latency_ms < 60_000, "the stamp is of now"


def test_nobody_listens_so_no_cloud_is_made(client, shoot, monkeypatch):
    made = []
    original = results.split_cloud
    monkeypatch.setattr(results, "split_cloud", lambda *args: made.append(args) or original(*args))
    shoot()
    assert made == []
    subscription = client.listen(PointCloud2, "/easi3r/points/static")
    wait_until(lambda: shoot() and client.received["/easi3r/points/static"], "a cloud")
    assert made
    client.node.destroy_subscription(subscription)


def test_live_parameter_reaches_the_pipeline(client, shoot):
    assert client.set_parameter("motion.threshold", 0.25).successful
    shoot()
    wait_until(lambda: FakePipeline.latest.config.motion.threshold == 0.25, "the new threshold")


def test_calibration(client, shoot):
    """Estimated while none is known, then the camera's, in a new world because the focal length changed."""
    infos = client.received["/easi3r/mask/camera_info"]
    shoot()
    wait_until(lambda: infos and infos[-1].k[0] == 50, "an estimated camera_info")
    wait_until(
        lambda: client.send(camera_info(), "/camera_info") or shoot() and infos[-1].k[0] == 80,
        "the camera's camera_info",
    )
    wait_until(lambda: said(client, "the camera's calibration came in: tracking starts again"), "a message")


def test_domain_of_its_own():
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST" and 1 <= int(os.environ["ROS_DOMAIN_ID"]) <= 100
