"""Topic names and what the node says about a silent camera, against a pretended graph."""

from types import SimpleNamespace

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402

from easi3r_ros.ros.inputs import CameraInput, camera_topics, image_qos

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class Graph:
    """Stands in for a node: remapping rules, and topics with their publishers."""

    def __init__(self, remap=None, publishers=None, namespace="/"):
        self.remap, self.publishers, self.namespace = remap or {}, publishers or {}, namespace
        self.callbacks = {}

    def resolve_topic_name(self, name, only_expand=False):
        full = name if name.startswith("/") else f"{self.namespace.rstrip('/')}/{name}"
        return full if only_expand else self.remap.get(name, full)

    def get_fully_qualified_name(self):
        return "/easi3r"

    def create_subscription(self, type_, topic, callback, qos, **options):
        self.callbacks[topic] = options.get("event_callbacks")

    def get_topic_names_and_types(self):
        return [(topic, sorted({p.topic_type for p in found})) for topic, found in self.publishers.items()]

    def get_publishers_info_by_topic(self, topic):
        return self.publishers.get(topic, [])

    def count_publishers(self, topic):
        return len(self.publishers.get(topic, []))


def publisher(type_=RAW, reliability=ReliabilityPolicy.RELIABLE):
    qos = QoSProfile(depth=5, reliability=reliability, durability=DurabilityPolicy.VOLATILE)
    return SimpleNamespace(node_name="driver", node_namespace="/robot", topic_type=type_, qos_profile=qos)


def camera(graph, transport="raw", bag_mode=False):
    """(input, lost counts, warnings)"""
    lost, warnings = [], []
    ignore = lambda _: None  # noqa: E731
    topics = camera_topics(graph, transport)
    made = CameraInput(
        graph, topics, transport, bag_mode, on_image=ignore, on_info=ignore, on_lost=lost.append, warn=warnings.append
    )
    return made, lost, warnings


@pytest.mark.parametrize(
    ("transport", "remap", "image", "info"),
    [
        ("raw", {}, "/ns/image", "/ns/camera_info"),
        ("compressed", {}, "/ns/image/compressed", "/ns/camera_info"),
        ("raw", {"image": "/cam/image_rect"}, "/cam/image_rect", "/cam/camera_info"),
        ("compressed", {"image": "/cam/image_raw"}, "/cam/image_raw/compressed", "/cam/camera_info"),
        ("compressed", {"image/compressed": "/jpeg"}, "/jpeg", "/ns/camera_info"),
        ("raw", {"image": "/cam/image", "camera_info": "/calib"}, "/cam/image", "/calib"),
    ],
)
def test_topics(transport, remap, image, info):
    topics = camera_topics(Graph(remap, namespace="/ns"), transport)
    assert (topics.image, topics.info) == (image, info)


class TestWhySilent:
    def say(self, publishers, **options):
        return camera(Graph(publishers=publishers), **options)[0].why_silent()

    def test_nothing_anywhere(self):
        assert self.say({}) == (
            "nobody publishes '/image'. There are no images of this type on any topic: start the camera, "
            "or set image_transport"
        )

    def test_images_elsewhere(self):
        found = {"/a/image": [publisher()], "/b/image": [publisher()], "/easi3r/depth": [publisher()], "/gone": []}
        text = self.say(found)
        assert text.endswith("Images are on: /a/image, /b/image. To use the first: --ros-args -r image:=/a/image")

    def test_compressed_images_elsewhere(self):
        text = self.say({"/a/image/compressed": [publisher(COMPRESSED)]}, transport="compressed")
        assert text.endswith("--ros-args -r image:=/a/image")

    def test_wrong_type(self):
        text = self.say({"/image": [publisher(COMPRESSED)]})
        assert text == (
            "'/robot/driver' publishes sensor_msgs/msg/CompressedImage, reliable, volatile on '/image', but "
            "sensor_msgs/msg/Image is needed: set image_transport to compressed"
        )

    def test_not_an_image_at_all(self):
        assert "remap `image` to a camera's image topic" in self.say({"/image": [publisher("std_msgs/msg/String")]})

    def test_best_effort_publisher_in_bag_mode(self):
        text = self.say({"/image": [publisher(reliability=ReliabilityPolicy.BEST_EFFORT)]}, bag_mode=True)
        assert "best_effort, volatile on '/image': " in text and "set bag_mode to false" in text
        assert "qos_overrides./image.subscription.reliability" in text

    @pytest.mark.parametrize("reliability", [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
    def test_live_fits_every_publisher(self, reliability):
        text = self.say({"/image": [publisher(reliability=reliability)]})
        assert "fits, but sends nothing" in text


def test_losses_are_counted_and_in_bag_mode_said():
    for bag_mode, said in ((False, 0), (True, 1)):
        graph = Graph()
        _, lost, warnings = camera(graph, bag_mode=bag_mode)
        graph.callbacks["/image"].message_lost(SimpleNamespace(total_count_change=3))
        assert lost == [3] and len(warnings) == said
        assert all("overwrote images" in text for text in warnings)


def test_quality_of_service():
    assert image_qos(False).reliability == ReliabilityPolicy.BEST_EFFORT
    assert image_qos(True).reliability == ReliabilityPolicy.RELIABLE and image_qos(True).history.name == "KEEP_ALL"
