"""The demo's side of DDS, against a node that publishes known results."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

import rclpy  # noqa: E402
from easi3r_lab.demo.client import FRAME_ID, camera_messages, connected
from easi3r_lab.synthetic.motions import look_at
from geometry_msgs.msg import PoseWithCovarianceStamped  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402

from easi3r_ros.core.types import PointCloud
from easi3r_ros.messages import conversions as messages
from easi3r_ros.messages.message_types import WindowStatus

DOMAIN = 1 + (os.getpid() + 50) % 100
SIZE = (32, 24)
K = np.array([[30.0, 0, 15.5], [0, 30, 11.5], [0, 0, 1]])
STAMPS = [10**9 + k * 50_000_000 for k in range(6)]
IMAGES = np.random.default_rng(0).integers(0, 255, (6, 24, 32, 3), dtype=np.uint8)
POSE = look_at(np.array([1.0, 2, 3]), np.array([4.0, 0, 2]))
CLOUD = PointCloud(
    np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([[255, 0, 10], [1, 2, 3]], np.uint8), np.ones(2, np.float32)
)


class Answering:
    """A node called `answering` that gives each image an answer told from its running number."""

    def __init__(self):
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=DOMAIN)
        self._node = rclpy.create_node("answering", context=self._context)
        self.images, self.infos = [], []
        self._node.create_subscription(Image, "image", self._answer, 10)
        self._node.create_subscription(CameraInfo, "camera_info", self.infos.append, 10)
        types = {"mask": Image, "probability": Image, "depth": Image, "pose": PoseWithCovarianceStamped}
        types |= {"points/static": PointCloud2, "points/dynamic": PointCloud2, "status": WindowStatus}
        self._out = {name: self._node.create_publisher(type_, f"~/{name}", 10) for name, type_ in types.items()}
        self.executor = SingleThreadedExecutor(context=self._context)
        self.executor.add_node(self._node)

    def close(self) -> None:
        self.executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def spin_until(self, condition, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self.executor.spin_once(0.02)

    def _answer(self, image: Image) -> None:
        number = len(self.images)
        self.images.append(image)
        if number == 4:
            return  # dropped
        header = image.header
        mask = np.zeros((24, 32), bool)
        mask[number] = True
        self._out["mask"].publish(messages.mask_message(mask, header))
        self._out["probability"].publish(messages.image_message(mask * np.float32(0.5), "32FC1", header))
        self._out["depth"].publish(messages.image_message(np.full((24, 32), 1.0 + number), "32FC1", header))
        if number != 3:  # lost
            self._out["pose"].publish(messages.pose_message(POSE, np.eye(6), header))
        for name in ("points/static", "points/dynamic"):
            self._out[name].publish(messages.cloud_message(CLOUD, header))
        state = WindowStatus.STATE_INITIALISING if number == 0 else WindowStatus.STATE_TRACKING
        self._out["status"].publish(WindowStatus(header=header, tracking_state=state))


@pytest.fixture(scope="module")
def played():
    """(results, frames per second, the answering node, duration) of six images at 20 Hz."""
    import threading

    answering = Answering()
    with connected(DOMAIN, "answering") as client:
        answering.spin_until(client.is_connected)
        clip = camera_messages(IMAGES, K, STAMPS)
        start = time.perf_counter()
        player = threading.Thread(target=client.play, args=(clip, 20.0, lambda: None))
        player.start()
        answering.spin_until(lambda: client.has_status(STAMPS[-1]))
        player.join()
        yield client.results(), client.frames_per_second(), answering, time.perf_counter() - start
    answering.close()


def test_images_arrive_as_a_camera_would_send_them(played):
    _, _, answering, seconds = played
    assert [messages.stamp_ns(image.header.stamp) for image in answering.images] == STAMPS
    assert 5 / 20 <= seconds < 5
    image, info = answering.images[2], answering.infos[2]
    assert (image.encoding, image.width, image.height, image.step) == ("rgb8", 32, 24, 96)
    np.testing.assert_array_equal(np.frombuffer(image.data, np.uint8).reshape(24, 32, 3), IMAGES[2])
    assert image.header.frame_id == info.header.frame_id == FRAME_ID
    assert info.header.stamp == image.header.stamp and (info.width, info.height) == SIZE
    np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), K)


def test_results_are_what_the_node_said(played):
    results, _, _, _ = played
    assert [result.stamp_ns for result in results] == [stamp for k, stamp in enumerate(STAMPS) if k != 4]
    for number, result in zip((0, 1, 2, 3, 5), results, strict=True):
        assert result.mask[number].all() and result.mask.sum() == 32
        assert result.probability.max() == 0.5 and (result.depth == 1.0 + number).all()
        for cloud in (result.static, result.dynamic):
            np.testing.assert_array_equal(cloud.xyz, CLOUD.xyz)
            np.testing.assert_array_equal(cloud.rgb, CLOUD.rgb)
        if number in (0, 3):  # initialising; lost
            assert result.world_from_cam is None
        else:
            np.testing.assert_allclose(result.world_from_cam, POSE, atol=1e-12)


def test_latency_and_rate_are_measured_on_the_wall(played):
    results, rate, _, _ = played
    assert all(0 < result.latency_ms < 2000 for result in results)
    assert 4 < rate < 40  # 20 Hz was asked for, and one of six is missing


def test_what_check_raises_ends_the_play():
    def check() -> None:
        raise RuntimeError("the node is gone")

    with connected(DOMAIN, "nobody") as client:
        assert not client.is_connected()
        with pytest.raises(RuntimeError, match="gone"):
            client.play(camera_messages(IMAGES, K, STAMPS), 20.0, check)
        assert client.results() == [] and client.frames_per_second() == 0
