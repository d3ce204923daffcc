"""camera_info over real DDS: distortion out and back, one that is missing, late, zero or of no use."""

import numpy as np
import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from helpers_node import FakePipeline, RunningNode  # noqa: E402
from helpers_ros import FOCAL, HEIGHT, SECOND, WIDTH, Client, camera_info, picture, rgb_image, wait_until  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402

from easi3r_ros.messages.images import array_from_image, intrinsics
from easi3r_ros.messages.rectify import Lens

D = [-0.3, 0.1, 0.0, 0.0, 0.0]


class Seeing(FakePipeline):
    """Remembers the frames; moving is whatever is in the left half of what it sees, 2 m away."""

    frames = []

    def push(self, frame):
        Seeing.frames.append(frame)
        mask = np.zeros(frame.image.shape[:2], bool)
        mask[:, : mask.shape[1] // 2] = True
        depth = np.where(mask, 2.0, 4.0).astype(np.float32)
        return super().push(frame).changed(mask=mask, depth=depth, probability=mask.astype(np.float32))


@pytest.fixture(scope="module")
def client():
    client = Client("calibration_tester")
    client.listen(Log, "/rosout", QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    for name, type_ in (
        ("mask", Image),
        ("depth", Image),
        ("depth/camera_info", CameraInfo),
        ("points/static", PointCloud2),
    ):
        client.listen(type_, f"/easi3r/{name}")
    yield client
    client.close()


@pytest.fixture
def run(client):
    """A node, and images to it; returns its frame and the mask about it."""
    for seen in client.received.values():
        seen.clear()
    Seeing.frames = []
    node = RunningNode("-p", "tf_mode:=none", "-p", "clouds.stride:=1", make_pipeline=Seeing)
    publishers = [client.publisher(Image, "/image"), client.publisher(CameraInfo, "/camera_info")]
    wait_until(lambda: all(p.get_subscription_count() for p in publishers), "the node's subscriptions")
    client.connect("easi3r", ("mask", "depth"), lambda index: client.send(rgb_image(index), "/image"))
    stamps = iter(range(100, 1000))

    def shoot(info=None):
        if info is not None:
            before = CameraModelOf(node)
            client.send(info, "/camera_info")
            wait_until(lambda: before.changed(), "camera_info to come in")
        stamp, count = next(stamps) * SECOND, len(client.received["/easi3r/mask"])
        client.send(rgb_image(stamp), "/image")
        wait_until(lambda: len(client.received["/easi3r/mask"]) > count, "a mask")
        wait_until(lambda: client.received["/easi3r/depth"][-1].header.stamp.sec == stamp // SECOND, "a depth image")
        return Seeing.frames[-1], array_from_image(client.received["/easi3r/mask"][-1])

    yield shoot
    node.close()
    wait_until(lambda: not any(p.get_subscription_count() for p in publishers), "the node's end")


class CameraModelOf:
    def __init__(self, node):
        self._camera = node.node._stream._camera
        self._last = self._camera._last

    def changed(self):
        return self._camera._last is not self._last


def said(client, text):
    return [log.msg for log in client.received["/rosout"] if text in log.msg]


def test_a_bent_image_is_straightened_and_its_mask_is_bent_back(client, run):
    info = camera_info()
    info.d = D
    frame, mask = run(info)
    model = intrinsics(info)
    lens = Lens("plumb_bob", model.K, np.array(D), (WIDTH, HEIGHT), model.pinhole)
    np.testing.assert_array_equal(frame.image, lens.rectify(picture()))
    assert np.abs(frame.image.astype(int) - picture()).max() > 30, "the test would not notice"
    straight = np.zeros((HEIGHT, WIDTH), np.float32)
    straight[:, : WIDTH // 2] = 1
    np.testing.assert_array_equal(mask > 0, lens.restore(straight, 0.0, True) > 0.5)
    depth = array_from_image(client.received["/easi3r/depth"][-1])
    assert set(np.unique(depth[np.isfinite(depth)])) == {2.0, 4.0}
    sent = client.received["/easi3r/depth/camera_info"][-1]
    assert list(sent.d) == D and list(sent.k) == list(info.k), "it belongs to the pixels that came in"
    points = np.frombuffer(client.received["/easi3r/points/static"][-1].data, np.float32).reshape(-1, 5)
    right = (WIDTH - 1 - (WIDTH - 1) / 2) / FOCAL * 4.0
    assert points[:, 0].max() == pytest.approx(right, abs=1e-4), "points come from the straight image"
    assert not said(client, "which is not taken out")


def test_none_late_zero_and_unknown_are_told_once_each(client, run):
    run()
    (text,) = said(client, "no camera_info on '/camera_info'")
    assert "the focal length is estimated" in text and "lens distortion stays" in text
    assert run()[0].K is None
    zero = camera_info()
    zero.k = [0.0] * 9
    assert run(zero)[0].K is None and run()[0].K is None
    assert len(said(client, "camera_info has no calibration (K is zero): the focal length is estimated")) == 1
    frame, _ = run(camera_info())
    assert frame.K is not None and frame.received is None
    assert len(said(client, "the camera's calibration came in: tracking starts again in a new world")) == 1
    odd = camera_info()
    odd.d = [0.1, 0.2]
    frame, _ = run(odd)
    assert frame.received is None and run()[0].K is not None
    assert len(said(client, "has 2 coefficients, 0 or 4 or 5 or 8 are expected")) == 1
    assert len(said(client, "no camera_info on")) == 1
