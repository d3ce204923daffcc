"""The node as a process, over real DDS: every output, and one clear message for everything that can go wrong."""

import math
import time

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from easi3r_ros.msg import WindowStatus
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped  # noqa: E402
from helpers_ros import (  # noqa: E402
    FRAME_ID,
    HEIGHT,
    SECOND,
    WIDTH,
    Client,
    NodeProcess,
    best_effort,
    camera_info,
    header,
    picture,
    rgb_image,
    wait_until,
)
from lifecycle_msgs.msg import Transition  # noqa: E402
from nav_msgs.msg import Odometry, Path  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from easi3r_ros.messages.images import array_from_image

TYPES = {
    "mask": Image,
    "mask/camera_info": CameraInfo,
    "probability": Image,
    "depth": Image,
    "depth/camera_info": CameraInfo,
    "points/static": PointCloud2,
    "points/dynamic": PointCloud2,
    "pose": PoseWithCovarianceStamped,
    "odometry": Odometry,
    "path": Path,
    "status": WindowStatus,
}
IN_MAP = {"pose", "odometry", "path"}
BAG_FRAMES = 40


@pytest.fixture(scope="module")
def nodes():
    """All at once, because most of a start is waiting."""
    started = {
        "easi3r": NodeProcess("easi3r", image_timeout=1.0, path_period=0.0),
        "managed": NodeProcess(
            "managed",
            ("-r", "image:=/robot/camera/image_rect"),
            autostart=False,
            image_transport="compressed",
            tf_mode="none",
            image_timeout=0.5,
        ),
        "bag": NodeProcess("bag", ("-r", "image:=/bag/image"), bag_mode=True, tf_mode="none"),
        "typo": NodeProcess("typo", tf_mode="sideways"),
        "range": NodeProcess("range", motion__threshold=1.5),
    }
    yield started
    for node in started.values():
        node.close()


@pytest.fixture(scope="module")
def client():
    client = Client()
    yield client
    client.close()


class Camera:
    """A camera whose clock only a test turns back. Each image is sent when the last one's mask is there."""

    def __init__(self, client, node, topic):
        self.client, self.node, self.topic = client, node, topic
        self.stamp_ns, self.index = 1_700_000_000 * SECOND + 123_456_789, 0

    def next_stamp(self):
        self.index += 1
        self.stamp_ns += SECOND // 10 + 1
        return self.stamp_ns

    def send(self, message):
        """Returns the index of the first mask that can belong to it."""
        before = len(self.masks)
        self.client.send(message, self.topic)
        return before

    @property
    def masks(self):
        return self.client.received[f"/{self.node}/mask"]

    def shoot(self, **options):
        """Send a picture and wait for its mask."""
        stamp = self.next_stamp()
        before = self.send(rgb_image(stamp, self.index, **options))
        wait_until(lambda: len(self.masks) > before, f"a mask of {self.node}")
        return self.masks[-1]


@pytest.fixture(scope="module")
def camera(client, nodes):
    """The live node with everything subscribed, after three images."""
    for name, type_ in TYPES.items():
        client.listen(type_, f"/easi3r/{name}")
    client.listen(TFMessage, "/tf")
    client.listen(DiagnosticArray, "/diagnostics")
    # Nobody has published anything yet: it must say what is missing.
    nodes["easi3r"].wait_for("no images on '/image' for 1 s: nobody publishes '/image'")
    camera = Camera(client, "easi3r", "/image")

    def send(index):
        client.send(camera_info(), "/camera_info")
        client.send(rgb_image(camera.next_stamp(), index), "/image")  # a camera that moves: else there is no pose

    client.connect("easi3r", tuple(TYPES), send)
    for _ in range(3):
        camera.shoot()
    return camera


@pytest.fixture(scope="module")
def last(client, camera):
    """The last message on each topic, all about the same image."""
    wait_until(
        lambda: (
            all(client.received[f"/easi3r/{name}"] for name in TYPES)
            and client.received["/easi3r/status"][-1].header.stamp == camera.masks[-1].header.stamp
        ),
        "every output",
    )
    return {name: client.received[f"/easi3r/{name}"][-1] for name in TYPES}


class TestOutputs:
    @pytest.mark.parametrize("name", TYPES)
    def test_stamp_and_frame(self, last, camera, name):
        stamp = last[name].header.stamp
        assert stamp.sec * SECOND + stamp.nanosec == camera.stamp_ns
        assert last[name].header.frame_id == ("map" if name in IN_MAP else FRAME_ID)

    @pytest.mark.parametrize("name", TYPES)
    def test_quality_of_service(self, client, last, name):
        (publisher,) = client.publishers_of(f"/easi3r/{name}")
        assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert publisher.qos_profile.durability == DurabilityPolicy.VOLATILE

    def test_input_is_as_reliable_as_its_publisher(self, client, last):
        def asked():
            found = client.node.get_subscriptions_info_by_topic("/image")
            return [subscription.qos_profile.reliability for subscription in found]

        wait_until(lambda: asked() == [ReliabilityPolicy.RELIABLE], "a reliable subscription")

    @pytest.mark.parametrize(("name", "encoding", "size"), [("mask", "mono8", 1), ("probability", "32FC1", 4)])
    def test_images(self, last, name, encoding, size):
        image = last[name]
        assert (image.width, image.height, image.encoding, image.is_bigendian) == (WIDTH, HEIGHT, encoding, 0)
        assert image.step == WIDTH * size and len(image.data) == image.step * HEIGHT

    def test_values(self, last):
        assert set(np.unique(array_from_image(last["mask"]))) <= {0, 255}
        probability = array_from_image(last["probability"])
        assert probability.min() >= 0 and probability.max() <= 1
        depth = array_from_image(last["depth"])
        assert depth.shape == (HEIGHT, WIDTH) and depth.dtype == np.float32
        assert (depth[np.isfinite(depth)] > 0).all()

    @pytest.mark.parametrize("name", ["mask/camera_info", "depth/camera_info"])
    def test_camera_info_is_the_cameras(self, last, name):
        info = last[name]
        assert (info.width, info.height) == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(info.k, camera_info().k)

    @pytest.mark.parametrize("name", ["points/static", "points/dynamic"])
    def test_clouds(self, last, name):
        cloud = last[name]
        fields = [(field.name, field.offset, field.datatype, field.count) for field in cloud.fields]
        assert fields == [(n, 4 * i, 7, 1) for i, n in enumerate(("x", "y", "z", "rgb", "confidence"))]
        assert (cloud.height, cloud.point_step, cloud.row_step) == (1, 20, 20 * cloud.width)
        assert len(cloud.data) == cloud.row_step and cloud.is_dense and not cloud.is_bigendian

    def test_pose(self, last):
        pose, odometry = last["pose"].pose, last["odometry"]
        q = pose.pose.orientation
        assert math.isclose(math.hypot(q.x, q.y, q.z, q.w), 1.0, abs_tol=1e-9)
        covariance = np.reshape(pose.covariance, (6, 6))
        assert np.isfinite(covariance).all() and (np.diag(covariance) > 0).all() and covariance.max() < 1
        assert odometry.child_frame_id == FRAME_ID and odometry.pose == pose
        assert np.isfinite(odometry.twist.covariance).all()
        assert last["path"].poses[-1].pose == pose.pose

    def test_transform(self, client, last):
        ours = [t for m in client.received["/tf"] for t in m.transforms if t.child_frame_id == FRAME_ID]
        assert ours[-1].header == last["pose"].header
        position = last["pose"].pose.pose.position
        translation = ours[-1].transform.translation
        assert (translation.x, translation.y, translation.z) == (position.x, position.y, position.z)
        assert ours[-1].transform.rotation == last["pose"].pose.pose.orientation

    def test_status(self, last):
        status = last["status"]
        assert status.frame_index == 2 and list(status.window_frames)[-1] == 2
        assert status.window_stamps[-1] == status.header.stamp
        assert len(status.stage_names) == len(status.stage_latency_ms) > 0
        assert status.backbone == "classical" and not status.uses_checkpoint and status.checkpoint == ""
        assert status.scale_state == WindowStatus.SCALE_ARBITRARY
        assert status.frames_processed == 3 == status.frames_received - status.frames_dropped
        assert status.processing_latency_ms > 0
        assert math.isnan(status.total_latency_ms), "the stamps are years old: not this clock"

    def test_the_classical_default_says_so_once(self, nodes, last):
        assert nodes["easi3r"].said("no backbone.checkpoint given: using the classical backbone") == 1
        assert nodes["easi3r"].said("easi3r weights") == 1

    def test_diagnostics(self, client, last):
        def latest():
            return {s.name: s for m in client.received["/diagnostics"][-5:] for s in m.status}

        wait_until(lambda: any(v.value == "3" for v in _values(latest(), "easi3r: input", "processed")), "diagnostics")
        status = latest()
        assert "tracking" in " ".join(status)
        assert _values(status, "easi3r: tracking", "backbone")[0].value == "classical"
        assert _values(status, "easi3r: input", "topic")[0].value == "/image"


def _values(status, name, key):
    return [value for value in status[name].values if value.key == key] if name in status else []


class TestWhatGoesWrong:
    """Each time one message, and the next good image gives a mask again."""

    def test_depth_image_as_camera_image(self, client, nodes, camera):
        start = len(nodes["easi3r"].log)
        for _ in range(3):
            depth = Image(
                header=header(camera.next_stamp()), encoding="16UC1", width=2, height=2, step=4, data=bytes(8)
            )
            camera.send(depth)
        nodes["easi3r"].wait_for("'16UC1' is that of a depth image", start)
        camera.shoot()
        assert nodes["easi3r"].said("depth image", start) == 1

    def test_unknown_encoding(self, nodes, camera):
        start = len(nodes["easi3r"].log)
        camera.send(
            Image(header=header(camera.next_stamp()), encoding="rgb9", width=2, height=2, step=6, data=bytes(12))
        )
        nodes["easi3r"].wait_for("image on '/image' left out: unknown image encoding 'rgb9'; accepted: ", start)
        camera.shoot()

    def test_size_change(self, nodes, camera):
        start = len(nodes["easi3r"].log)
        assert (camera.shoot(width=64, height=48).width, camera.masks[-1].height) == (64, 48)
        nodes["easi3r"].wait_for("the image size changed from 96 x 64 to 64 x 48: tracking starts again", start)
        nodes["easi3r"].wait_for("camera_info is for images of 96 x 64, the images are 64 x 48: ignoring it", start)
        camera.shoot(width=64, height=48)
        assert camera.shoot().width == WIDTH
        assert nodes["easi3r"].said("camera_info is for images of", start) == 1

    def test_time_jumps_back(self, client, nodes, camera):
        start = len(nodes["easi3r"].log)
        camera.shoot()
        camera.stamp_ns -= 100 * SECOND
        camera.shoot()
        assert camera.masks[-1].header.stamp.sec * SECOND + camera.masks[-1].header.stamp.nanosec == camera.stamp_ns
        camera.shoot()
        nodes["easi3r"].wait_for("time jumped back by 99.900 s: tracking starts again in a new world", start)
        assert nodes["easi3r"].said("time jumped back", start) == 1
        wait_until(lambda: client.received["/easi3r/status"][-1].frame_index == 1, "a status of the new world")
        wait_until(lambda: len(client.received["/easi3r/path"][-1].poses) == 1, "a path of the new world alone")

    def test_before_tracking_starts_nothing_is_said_of_the_pose(self, client, camera):
        """A camera that stands still: the identity with covariance zero would be taken for a certain standstill."""
        assert client.call(Trigger, "/easi3r/reset", Trigger.Request()).success
        before = {name: len(client.received[f"/easi3r/{name}"]) for name in IN_MAP}
        transforms = len(client.received["/tf"])
        camera.shoot()
        camera.index -= 1  # the same picture once more
        stamp = camera.shoot().header.stamp
        wait_until(lambda: client.received["/easi3r/status"][-1].header.stamp == stamp, "a status")
        status = client.received["/easi3r/status"][-1]
        assert status.tracking_state == WindowStatus.STATE_INITIALISING and status.reason
        assert {name: len(client.received[f"/easi3r/{name}"]) for name in IN_MAP} == before
        assert len(client.received["/tf"]) == transforms
        camera.shoot()
        wait_until(lambda: len(client.received["/easi3r/pose"]) > before["pose"], "a pose as soon as it moves")

    def test_a_frame_with_another_parent(self, client, nodes, camera):
        static = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        taken = TransformStamped(header=header(0, "camera_link"), child_frame_id="taken")
        client.send(TFMessage(transforms=[taken]), "/tf_static", static)
        start = len(nodes["easi3r"].log)
        text = "'taken' already has the parent 'camera_link'"

        def refused() -> bool:  # /tf_static may reach the node after the first images
            camera.shoot(frame_id="taken")
            return nodes["easi3r"].said(text, start)

        wait_until(refused, f"the node saying {text!r}")

        def broadcast() -> int:
            return sum(t.child_frame_id == "taken" for m in client.received["/tf"] for t in m.transforms)

        before = broadcast()
        for _ in range(2):
            camera.shoot(frame_id="taken")
        assert broadcast() == before and nodes["easi3r"].said("already has the parent", start) == 1
        camera.shoot()

    def test_silence_of_a_fitting_publisher(self, nodes, camera):
        start = len(nodes["easi3r"].log)
        nodes["easi3r"].wait_for("no images on '/image' for 1 s: '/tester' publishes sensor_msgs/msg/Image", start)
        assert "sends nothing" in nodes["easi3r"].log[start:]

    def test_nothing_of_it_ended_the_node(self, nodes, camera):
        assert nodes["easi3r"].alive and "Traceback" not in nodes["easi3r"].log


class TestServices:
    def test_reset_twice(self, client, camera):
        def shoot_and_finish():
            stamp = camera.shoot().header.stamp
            wait_until(lambda: client.received["/easi3r/status"][-1].header.stamp == stamp, "a status")
            time.sleep(0.2)  # an image still in hand would count for the new world
            return client.received["/easi3r/status"][-1]

        for _ in range(2):
            shoot_and_finish()
            assert client.call(Trigger, "/easi3r/reset", Trigger.Request()).success
            status = shoot_and_finish()
            assert (status.frame_index, status.frames_processed) == (0, 1)

    def test_pause(self, client, camera):
        assert client.call(SetBool, "/easi3r/pause", SetBool.Request(data=True)).message == "paused"
        before = camera.send(rgb_image(camera.next_stamp()))
        with pytest.raises(AssertionError, match="in vain"):
            wait_until(lambda: len(camera.masks) > before, "no mask", patience=0.5)
        assert client.call(SetBool, "/easi3r/pause", SetBool.Request(data=False)).message == "running"
        camera.shoot()


class TestParameters:
    def test_description(self, client, camera):
        threshold = client.describe_parameter("motion.threshold")
        assert "probability" in threshold.description and threshold.additional_constraints == "Applied at once."
        assert (threshold.floating_point_range[0].from_value, threshold.floating_point_range[0].to_value) == (0.0, 1.0)
        assert client.describe_parameter("window.size").integer_range[0].from_value == 2
        constraints = client.describe_parameter("tf_mode").additional_constraints
        assert constraints.startswith("One of: map_to_odom, map_to_base, map_to_camera, none.")
        assert client.describe_parameter("autostart").read_only

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("motion.threshold", 2.0, "range"),
            ("motion.threshold", "high", "type"),
            ("clouds.stride", 0, "range"),
            ("tf_mode", "map_to_moon", "must be one of: map_to_odom, map_to_base, map_to_camera, none"),
            ("window.size", 5, "read when the node is configured"),
            ("autostart", False, "read-only"),
            ("window.offsets", [1, -1], "positive whole numbers"),
        ],
    )
    def test_refused_with_the_reason(self, client, camera, name, value, reason):
        before = client.get_parameter(name)
        result = client.set_parameter(name, value)
        assert not result.successful and reason in result.reason
        assert client.get_parameter(name) == before

    def test_live_value_takes_effect(self, client, camera):
        camera.shoot()
        assert client.set_parameter("path_length", 1).successful
        camera.shoot()
        camera.shoot()
        stamp = camera.masks[-1].header.stamp
        wait_until(lambda: client.received["/easi3r/path"][-1].header.stamp == stamp, "a path")
        assert len(client.received["/easi3r/path"][-1].poses) == 1

    @pytest.mark.parametrize(
        ("node", "text"),
        [
            ("typo", "'tf_mode' is 'sideways', must be one of: map_to_odom, map_to_base, map_to_camera, none"),
            ("range", "motion.threshold out of range Min: 0.0, Max: 1.0, value: 1.5"),
        ],
    )
    def test_bad_value_at_start(self, nodes, node, text):
        assert nodes[node].wait() == 1
        assert text in nodes[node].log and "Traceback" not in nodes[node].log
        assert len(nodes[node].log.strip().splitlines()) == 1


class TestLifecycle:
    """A node without autostart, with compressed images from a remapped topic."""

    def test_everything(self, client, nodes, tmp_path):
        node = nodes["managed"]
        assert client.state("managed") == "unconfigured"
        assert not client.change_state(Transition.TRANSITION_ACTIVATE, "managed"), "not from here"
        self.checkpoints_fail_cleanly(client, node, tmp_path)
        assert client.change_state(Transition.TRANSITION_CONFIGURE, "managed")
        assert client.state("managed") == "inactive"
        assert client.publishers_of("/managed/mask"), "publishers exist from configure on"
        assert not client.node.get_subscriptions_info_by_topic("/robot/camera/image_rect/compressed")
        self.silence_is_explained(client, node)
        self.compressed_images(client, node)
        self.goes_back_and_forth(client)
        assert client.change_state(Transition.TRANSITION_DEACTIVATE, "managed")
        assert client.change_state(Transition.TRANSITION_CLEANUP, "managed")
        wait_until(lambda: not client.publishers_of("/managed/mask"), "the publishers to go")
        assert client.set_parameter("window.size", 5, "managed").successful, "free again after cleanup"
        assert client.change_state(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, "managed")
        assert client.state("managed") == "finalized"
        assert node.alive and "Traceback" not in node.log

    def checkpoints_fail_cleanly(self, client, node, tmp_path):
        truncated = tmp_path / "truncated.pth"
        torch.save({"model": {"enc_norm.weight": torch.ones(1000)}}, truncated)
        truncated.write_bytes(truncated.read_bytes()[:2000])
        for path in (tmp_path / "missing.pth", truncated):
            start = len(node.log)
            assert client.set_parameter("backbone.checkpoint", str(path), "managed").successful
            assert not client.change_state(Transition.TRANSITION_CONFIGURE, "managed")
            node.wait_for("cannot configure: ", start)
            assert node.said("cannot configure: ", start) == 1 and path.name in node.log[start:]
            assert client.state("managed") == "unconfigured"
        assert client.set_parameter("backbone.checkpoint", "", "managed").successful

    def silence_is_explained(self, client, node):
        topic = "/robot/camera/image_rect/compressed"
        other = Client("other")  # with a participant of its own: one participant knows one type per topic
        other.publisher(Image, topic)
        wait_until(lambda: client.publishers_of(topic), "the publisher of another type")
        assert client.change_state(Transition.TRANSITION_ACTIVATE, "managed")
        node.wait_for(f"no images on '{topic}' for 0.5 s: '/other' publishes sensor_msgs/msg/Image, reliable")
        node.wait_for("but sensor_msgs/msg/CompressedImage is needed: set image_transport to raw")
        other.close()

    def compressed_images(self, client, node):
        client.listen(Image, "/managed/mask")
        masks = client.received["/managed/mask"]
        topic = "/robot/camera/image_rect/compressed"
        png = cv2.imencode(".png", picture())[1].tobytes()
        first = CompressedImage(header=header(0), format="png", data=png)
        client.connect("managed", ("mask",), lambda _: client.send(first, topic, best_effort()))
        for stamp, data in enumerate([png, png[: len(png) // 2], png[: len(png) // 3], png], start=1):
            message = CompressedImage(header=header(stamp * SECOND), format="rgb8; png compressed bgr8", data=data)
            client.send(message, topic, best_effort())
            if data is png:
                wait_until(lambda n=1 if stamp == 1 else 2: len(masks) == n, "a mask of a compressed image")
            else:
                node.wait_for("is truncated")
        assert [mask.header.stamp.sec for mask in masks] == [1, 4]
        assert node.said("is truncated") == 1
        assert (masks[0].width, masks[0].height, masks[0].encoding) == (WIDTH, HEIGHT, "mono8")

    def goes_back_and_forth(self, client):
        masks = client.received["/managed/mask"]
        assert client.change_state(Transition.TRANSITION_DEACTIVATE, "managed")
        assert client.change_state(Transition.TRANSITION_ACTIVATE, "managed")
        before = len(masks)
        png = cv2.imencode(".png", picture())[1].tobytes()
        message = CompressedImage(header=header(9 * SECOND), format="png", data=png)
        client.send(message, "/robot/camera/image_rect/compressed", best_effort())
        wait_until(lambda: len(masks) > before, "a mask after reactivation")


class TestBagMode:
    def test_every_image_has_its_mask_in_order(self, client, nodes):
        topics = ("mask", "pose", "status")
        for name in topics:
            client.listen(TYPES[name], f"/bag/{name}")
        received = client.received
        reliable = QoSProfile(depth=BAG_FRAMES)
        client.connect("bag", ("mask", "status"), lambda index: client.send(rgb_image(index), "/bag/image", reliable))
        stamps = [7 * SECOND + i * 33_333_333 for i in range(BAG_FRAMES)]
        for i, stamp in enumerate(stamps):  # as fast as possible: far faster than the node
            client.send(rgb_image(stamp, i), "/bag/image", reliable)
        for name in ("mask", "status"):
            wait_until(lambda name=name: len(received[f"/bag/{name}"]) >= BAG_FRAMES, f"{BAG_FRAMES} of {name}", 40)
        placed = (WindowStatus.STATE_TRACKING, WindowStatus.STATE_DEGRADED)
        states = [message.tracking_state for message in received["/bag/status"]]
        with_pose = [stamp for stamp, state in zip(stamps, states, strict=True) if state in placed]
        assert len(with_pose) > BAG_FRAMES // 2
        wait_until(lambda: len(received["/bag/pose"]) >= len(with_pose), f"{len(with_pose)} of pose")
        for name in topics:
            sent = [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in received[f"/bag/{name}"]]
            assert sent == (with_pose if name == "pose" else stamps)
        assert received["/bag/status"][-1].frames_dropped == 0
        positions = [message.pose.pose.position for message in received["/bag/pose"]]
        assert all(math.isfinite(p.x) and math.isfinite(p.y) and math.isfinite(p.z) for p in positions)
        assert positions[-1].y < -0.1, "the camera moved to the right: y is left (REP-103)"
        assert abs(positions[-1].z) < 0.1 * abs(positions[-1].y), "z is up"

    def test_a_best_effort_player_is_told_what_to_do(self, client, nodes):
        unreliable = client.node.create_publisher(Image, "/bag/image", best_effort())
        nodes["bag"].wait_for("the publisher of '/bag/image' is best effort, but bag_mode needs reliable delivery")
        client.node.destroy_publisher(unreliable)

    def test_interrupt_ends_it_cleanly(self, nodes):
        assert nodes["bag"].interrupt() == 0
        assert "Traceback" not in nodes["bag"].log and "terminate" not in nodes["bag"].log
