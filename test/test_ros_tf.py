"""TF on a robot, over real DDS: a turtlebot-like tree, clouds in `map` in every tf_mode, never two parents."""

import math
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from easi3r_ros.msg import WindowStatus
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped  # noqa: E402
from helpers_node import FakePipeline, RunningNode  # noqa: E402
from helpers_ros import SECOND, Client, header, rgb_image, wait_until  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from sensor_msgs.msg import Image, Imu, PointCloud2  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from easi3r_ros.mapping.level import CAMERA_LEVEL
from easi3r_ros.mapping.tf_tree import TransformTree
from easi3r_ros.messages.conversions import stamp_ns, time_message, transform_message
from easi3r_ros.ros.tf import ParentWatch, TfFrames, fitting_mode

OPTICAL, FRAMES = "camera_optical", TfFrames("map", "odom", "base_link")
START = 1_700_000_000 * SECOND
METRES = 2.0  # per unit of the pretended alignment
STATIC = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0):
    out = np.eye(4)
    out[:3, 3] = x, y, z
    out[:3, :3] = Rotation.from_euler("z", yaw).as_matrix()
    return out


BASE_FROM_CAM = pose(0.2, 0.05, 0.3, 0.1)  # camera_link, yawed a little
BASE_FROM_CAM[:3, :3] = BASE_FROM_CAM[:3, :3] @ CAMERA_LEVEL


def base_at(k):
    """(4, 4) of the base in its own start, at image k: it drives a bend."""
    return pose(0.1 * k, 0.002 * k * k, 0, 0.03 * k)


ODOM_OFFSET = pose(3.0, -2.0, 0, 0.7)  # odometry began elsewhere


def world_from_cam(k):
    """As the alignment has it: axes of the first optical frame, its own unit."""
    out = np.linalg.inv(base_at(0) @ BASE_FROM_CAM) @ base_at(k) @ BASE_FROM_CAM
    out[:3, 3] /= METRES
    return out


class Driving(FakePipeline):
    """Sees what a robot sees that drives as `base_at`; a point 2 m ahead in every pixel."""

    metric = False

    def push(self, frame):
        k = round((frame.stamp_ns - START) / (SECOND / 10))
        depth = np.full(frame.image.shape[:2], 2.0 / METRES, np.float32)
        return (
            super()
            .push(frame)
            .changed(
                world_from_cam=world_from_cam(k),
                covariance=np.eye(6) * 1e-8,
                metric=self.metric,
                depth=depth,
                mask=np.zeros(depth.shape, bool),
            )
        )


@pytest.fixture(scope="module")
def client():
    client = Client("tf_tester")
    client.listen(Log, "/rosout", QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    client.listen(TFMessage, "/tf", QoSProfile(depth=5000))
    client.listen(WindowStatus, "/easi3r/status")
    client.listen(PoseWithCovarianceStamped, "/easi3r/pose")
    client.listen(PointCloud2, "/easi3r/points/static")
    yield client
    client.close()


@pytest.fixture
def node(client):
    """Starts nodes; all are ended."""
    started = []

    def start(**parameters):
        for seen in client.received.values():
            seen.clear()
        arguments = []
        for name, value in parameters.items():
            arguments += ["-p", f"{name.replace('__', '.')}:={value}"]
        started.append(RunningNode(*arguments, make_pipeline=Driving))
        images = client.publisher(Image, "/image")
        wait_until(lambda: images.get_subscription_count() and client.publishers_of("/easi3r/status"), "the node")
        time.sleep(0.3)  # the other direction of discovery shows no sign
        return started[-1]

    yield start
    for running in started:
        running.close()
    images = client.publisher(Image, "/image")
    wait_until(lambda: not images.get_subscription_count() and not client.publishers_of("/easi3r/status"), "its end")


class Robot:
    """Publishes what a turtlebot does: static frames once, odometry, images."""

    def __init__(self, client, with_base=True, odometry=True, static=True, namespace=""):
        self.client, self.odometry = client, odometry
        self.static = client.publisher(TFMessage, "/tf_static", STATIC) if static else None
        if static:
            link = transform_message(pose(0.2, 0.05, 0.3, 0.1), header(0, "base_link"), "camera_link")
            optical = np.eye(4)
            optical[:3, :3] = CAMERA_LEVEL
            lens = transform_message(optical, header(0, "camera_link"), OPTICAL)
            self.static.publish(TFMessage(transforms=[link, lens] if with_base else [lens]))

    def move(self, k, parent="odom"):
        message = transform_message(ODOM_OFFSET @ base_at(k), header(START + k * SECOND // 10, parent), "base_link")
        self.client.send(TFMessage(transforms=[message]), "/tf", QoSProfile(depth=1000))

    def shoot(self, k):
        statuses = self.client.received["/easi3r/status"]
        before = len(statuses)
        for _ in range(5):  # the node's side is best effort, and this machine may be busy
            self.client.send(rgb_image(START + k * SECOND // 10, frame_id=OPTICAL), "/image")
            with suppress(AssertionError):
                wait_until(lambda: len(statuses) > before, f"a status of image {k}", patience=8.0)
                return statuses[-1]
        raise AssertionError(f"no status of image {k}")

    def drive(self, images, late=0):
        for k in images:
            if self.odometry:
                self.move(k + 1 - late)
            self.shoot(k)


def said(client, text):
    return [log.msg for log in client.received["/rosout"] if text in log.msg]


def sent_by_us(client, parent="map"):
    return [t for m in client.received["/tf"] for t in m.transforms if t.header.frame_id == parent]


def matrix(transform):
    t, q, out = transform.transform.translation, transform.transform.rotation, np.eye(4)
    out[:3, 3] = t.x, t.y, t.z
    out[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    return out


def forget_static(client):
    """What is transient local must not reach the next test's node."""
    publisher = client._publishers.pop("/tf_static", None)
    if publisher is not None:
        client.node.destroy_publisher(publisher)


@pytest.fixture(autouse=True)
def clean(client):
    yield
    forget_static(client)


def tree_of(client):
    """Everything that anybody broadcast, as a robot's other nodes see it; a frame with two parents fails the test."""
    parents, tree = {}, TransformTree()
    link = transform_message(pose(0.2, 0.05, 0.3, 0.1), header(0, "base_link"), "camera_link")
    optical = np.eye(4)
    optical[:3, :3] = CAMERA_LEVEL
    static = [link, transform_message(optical, header(0, "camera_link"), OPTICAL)]
    moving = [t for m in client.received["/tf"] for t in m.transforms]
    for transforms, fixed in ((static, True), (moving, False)):
        for item in transforms:
            parents.setdefault(item.child_frame_id, set()).add(item.header.frame_id)
            t, q = item.transform.translation, item.transform.rotation
            stamp = stamp_ns(item.header.stamp)
            tree.put(item.header.frame_id, item.child_frame_id, stamp, (t.x, t.y, t.z), (q.x, q.y, q.z, q.w), fixed)
    assert all(len(given) == 1 for given in parents.values()), parents
    return tree


@pytest.mark.parametrize(
    ("mode", "child", "odometry"), [("map_to_odom", "odom", True), ("map_to_base", "base_link", False)]
)
def test_a_turtlebots_clouds_are_where_they_belong(client, node, mode, child, odometry):
    """The point that is 2 m ahead of the camera at each image is there in `map`, along the whole tree."""
    robot = Robot(client, odometry=odometry)
    options = {} if odometry else {"scale__source": "fixed", "scale__metres_per_unit": METRES}
    node(tf_mode=mode, level="tf", **options)
    robot.drive(range(40))
    wait_until(lambda: sent_by_us(client), f"map -> {child}")
    last = START + 39 * SECOND // 10
    wait_until(lambda: stamp_ns(sent_by_us(client)[-1].header.stamp) == last, "the last transform")
    sent = sent_by_us(client)
    assert {t.child_frame_id for t in sent} == {child}
    tree = tree_of(client)
    for transform in sent:
        stamp = stamp_ns(transform.header.stamp)
        k = round((stamp - START) / (SECOND / 10))
        found = tree.lookup("map", OPTICAL, stamp) @ [0, 0, 2.0, 1]
        expected = base_at(k) @ BASE_FROM_CAM @ [0, 0, 2.0, 1]  # map starts at the base: level is tf
        np.testing.assert_allclose(found, expected, atol=0.02 if odometry else 1e-6)
    cloud = client.received["/easi3r/points/static"][-1]
    assert cloud.header.frame_id == OPTICAL and stamp_ns(cloud.header.stamp) == last
    z = np.frombuffer(cloud.data, np.float32).reshape(-1, 5)[:, 2]
    assert z == pytest.approx(2.0, rel=0.01), "clouds are in metres"
    status = client.received["/easi3r/status"][-1]
    assert status.scale_state == WindowStatus.SCALE_METRIC and status.scale == pytest.approx(METRES, rel=0.01)
    assert status.scale_source == ("odometry" if odometry else "fixed")


def test_until_metres_are_known_nothing_with_a_length_goes_out(client, node):
    robot = Robot(client)
    node(tf_mode="map_to_odom")
    robot.drive(range(3))
    time.sleep(0.7)
    status = client.received["/easi3r/status"][-1]
    assert status.scale_state == WindowStatus.SCALE_UNLOCKED and status.scale_source == "odometry"
    assert status.scale_reason and math.isnan(status.scale_sigma)
    assert not sent_by_us(client) and not client.received["/easi3r/points/static"]


def test_map_to_camera_for_a_camera_alone(client, node):
    robot = Robot(client, odometry=False, static=False)
    node(tf_mode="map_to_camera")
    robot.drive(range(8))
    time.sleep(0.6)
    robot.drive(range(8, 10))
    wait_until(lambda: sent_by_us(client), "map -> camera")
    assert {t.child_frame_id for t in sent_by_us(client)} == {OPTICAL}
    k = round((stamp_ns(sent_by_us(client)[-1].header.stamp) - START) / (SECOND / 10))
    world = world_from_cam(k)
    np.testing.assert_allclose(matrix(sent_by_us(client)[-1])[:3, 3], CAMERA_LEVEL @ world[:3, 3], atol=1e-9)


@pytest.mark.parametrize(
    ("mode", "odometry", "expected"),
    [
        ("map_to_camera", True, "'camera_optical' already has the parent 'camera_link', and a frame has only one. "
         "tf_mode map_to_odom would work"),
        ("map_to_base", True, "'base_link' already has the parent 'odom', and a frame has only one. "
         "tf_mode map_to_odom would work"),
        ("map_to_camera", False, "'camera_optical' already has the parent 'camera_link', and a frame has only one. "
         "tf_mode map_to_base would work"),
    ],
)  # fmt: skip
def test_a_second_parent_is_refused_before_the_first_broadcast(client, node, mode, odometry, expected):
    robot = Robot(client, odometry=odometry)
    node(tf_mode=mode, scale__source="fixed")
    robot.drive(range(5))
    wait_until(lambda: said(client, expected) or robot.drive(range(5, 6)), expected)
    assert len(said(client, "already has the parent")) == 1 and not sent_by_us(client)


def test_somebody_else_in_the_same_place_is_noticed(client, node):
    """map -> odom from a static_transform_publisher: the same parent, and still not ours to give."""
    robot = Robot(client)
    client.publisher(TFMessage, "/tf_static", STATIC)
    hack = transform_message(np.eye(4), header(0, "map"), "odom")
    other = Client("localisation")
    other.publisher(TFMessage, "/tf_static", STATIC).publish(TFMessage(transforms=[hack]))
    node(tf_mode="map_to_odom", scale__source="fixed")
    text = "'odom' already has the parent 'map' from another broadcaster"
    robot.drive(range(5))
    wait_until(lambda: said(client, text) or robot.drive(range(5, 6)), text)
    assert "set tf_mode to none" in said(client, text)[0] and not sent_by_us(client)
    other.close()


def test_tf_that_comes_after_the_images_is_waited_for(client, node):
    """Odometry is two images late: every image's transform still comes, at its own stamp."""
    robot = Robot(client)
    node(tf_mode="map_to_odom", level="tf", scale__source="fixed", scale__metres_per_unit=METRES)
    robot.drive(range(20), late=3)
    for k in (18, 19, 20, 21):
        robot.move(k)
    time.sleep(0.3)
    robot.drive(range(21, 22))
    stamps = [stamp_ns(t.header.stamp) for t in sent_by_us(client)]
    assert stamps == sorted(set(stamps)) and len(stamps) >= 15
    np.testing.assert_allclose(matrix(sent_by_us(client)[-1]), np.linalg.inv(ODOM_OFFSET), atol=1e-6)


def test_tf_that_never_comes_is_told_and_tolerance_takes_the_nearest(client, node):
    robot = Robot(client)
    node(tf_mode="map_to_odom", level="tf", scale__source="fixed", scale__metres_per_unit=METRES, tf_tolerance=0.15)
    for k in range(10):
        robot.move(k)
    for k in (9, 10, 13):  # the last transform is that of 9
        robot.shoot(k)
    wait_until(lambda: said(client, "no TF map -> odom for some images"), "the warning", 5)
    assert "0.400 s older than the image" in said(client, "no TF map")[0]
    stamps = [round((stamp_ns(t.header.stamp) - START) / (SECOND / 10)) for t in sent_by_us(client)]
    assert stamps == [9, 10]


def test_without_odometry_map_to_odom_says_what_would_work(client, node):
    robot = Robot(client, odometry=False)
    node(tf_mode="map_to_odom", scale__source="fixed")
    robot.drive(range(3))
    text = "nobody broadcasts a transform of 'odom'"
    wait_until(lambda: said(client, text), text, 6)
    assert "tf_mode map_to_base would work" in said(client, text)[0]


def test_level_by_an_imu(client, node):
    """The camera looks 40 degrees down; its IMU has other axes, given by TF."""
    robot = Robot(client, odometry=False)
    turn = Rotation.from_euler("x", -40, degrees=True).as_matrix()  # level optical axes from the camera's
    imu = np.eye(4)
    imu[:3, :3] = Rotation.from_euler("xyz", [0.3, 0.2, 0.1]).as_matrix()
    lens = transform_message(imu, header(0, OPTICAL), "imu_link")
    other = Client("imu_driver")
    other.publisher(TFMessage, "/tf_static", STATIC).publish(TFMessage(transforms=[lens]))
    node(tf_mode="none", level="imu")
    up = imu[:3, :3].T @ turn.T @ [0, -9.81, 0]
    publisher = other.publisher(Imu, "/imu")
    wait_until(lambda: publisher.get_subscription_count(), "the subscription to imu")
    for k in range(60):
        message = Imu(header=header(START - 600_000_000 + 10_000_000 * k, "imu_link"))
        a = message.linear_acceleration
        a.x, a.y, a.z = up
        publisher.publish(message)
    robot.shoot(0)
    poses = client.received["/easi3r/pose"]
    wait_until(lambda: poses, "a pose")
    q = poses[-1].pose.pose.orientation
    map_from_cam = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    k = round((stamp_ns(poses[-1].header.stamp) - START) / (SECOND / 10))
    first = map_from_cam @ world_from_cam(k)[:3, :3].T
    np.testing.assert_allclose(first @ turn.T @ [0, -1, 0], [0, 0, 1], atol=1e-6)
    assert not said(client, "level is imu")
    other.close()


def test_no_imu_is_said_once_and_what_happens_instead(client, node):
    robot = Robot(client, odometry=False)
    node(tf_mode="none", level="imu")
    robot.drive(range(3))
    (text,) = said(client, "level is imu")
    assert "no accelerations on '/imu'" in text and "levelled as if the first image was level" in text


def test_odometry_as_a_topic(client, node):
    robot = Robot(client, odometry=False)
    node(tf_mode="none", scale__source="odometry", scale__odometry="topic")
    for k in range(40):
        message = Odometry(header=header(START + k * SECOND // 10, "odom"), child_frame_id="base_link")
        transform = transform_message(ODOM_OFFSET @ base_at(k), message.header, "base_link").transform
        message.pose.pose.orientation = transform.rotation
        p, t = message.pose.pose.position, transform.translation
        p.x, p.y, p.z = t.x, t.y, t.z
        client.send(message, "/odom")
        status = robot.shoot(k)
    assert status.scale_state == WindowStatus.SCALE_METRIC and status.scale == pytest.approx(METRES, rel=0.02)
    assert said(client, "metres are known from odometry")


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ([], "map_to_camera would"),
        ([("base_link", OPTICAL)], "map_to_base would"),
        ([("odom", "base_link"), ("base_link", OPTICAL)], "map_to_odom would"),
        ([("odom_combined", "base_link"), ("base_link", OPTICAL)], "map_to_odom with odom_frame 'odom_combined'"),
        ([("map", "odom"), ("odom", "base_link"), ("base_link", OPTICAL)], "set tf_mode to none"),
    ],
)
def test_which_mode_fits(parents, expected):
    watch = ParentWatch()
    watch.hear([heard(*pair) for pair in parents], static=False)
    assert expected in fitting_mode(watch, OPTICAL, FRAMES)


def test_a_rigid_rig_gets_its_root_as_the_base():
    watch = ParentWatch()
    watch.hear([heard("rig", OPTICAL)], static=True)
    assert "map_to_base with base_frame 'rig' would" in fitting_mode(watch, OPTICAL, FRAMES)


def heard(parent, child, stamp=0):
    return SimpleNamespace(header=SimpleNamespace(frame_id=parent, stamp=time_message(stamp)), child_frame_id=child)


def test_who_gives_a_frame_its_parent():
    now = [0.0]
    watch = ParentWatch(lambda: now[0])
    watch.hear([heard("base", "link")], static=True)
    assert watch.parent("link") == "base"
    ours = TransformStamped(header=header(5, "map"), child_frame_id="cam")
    watch.we_send(ours)
    watch.hear([heard("map", "cam", 5)], static=False)
    assert watch.parent("cam") is None, "one's own broadcast is no conflict"
    watch.hear([heard("map", "cam", 6)], static=False)
    assert watch.parent("cam") == "map", "that was somebody else"
    watch.hear([heard("odom", "base")], static=False)
    assert watch.chain("link") == ["link", "base", "odom"]
    now[0] = 60.0
    assert watch.parent("base") is None, "who fell silent gives no parent any more"
