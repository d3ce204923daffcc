"""Topic names and what the node says about a silent camera, against a pretended graph."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

import rclpy  # noqa: E402
from helpers_ros import session_environment  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy  # noqa: E402

from easi3r_ros.ros.inputs import (
    CameraInput,
    CameraTopics,
    LossReport,
    UnsupportedEventTypeError,
    camera_topics,
    image_qos,
)
from easi3r_ros.ros.monitor import Monitor
from easi3r_ros.ros.spinning import Gate, executor_for
from easi3r_ros.ros.worker import Counts

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class Graph:
    """Stands in for a node: remapping rules, and topics with their publishers.

    events: whether the middleware tells of lost messages; refused: a topic that cannot be subscribed to.
    """

    def __init__(self, remap=None, publishers=None, namespace="/", events=True, refused=""):
        self.remap, self.publishers, self.namespace = remap or {}, publishers or {}, namespace
        self.events, self.refused = events, refused
        self.subscriptions, self.destroyed = {}, []

    def resolve_topic_name(self, name, only_expand=False):
        full = name if name.startswith("/") else f"{self.namespace.rstrip('/')}/{name}"
        return full if only_expand else self.remap.get(name, full)

    def get_fully_qualified_name(self):
        return "/easi3r"

    def create_subscription(self, type_, topic, callback, qos, **options):
        options |= {"qos": qos, "callback": callback}
        if topic == self.refused:
            raise RuntimeError("no such policy")
        if not self.events and "event_callbacks" in options and options["event_callbacks"].message_lost:
            raise UnsupportedEventTypeError("no such event")
        self.subscriptions[topic] = SimpleNamespace(**options)
        return self.subscriptions[topic]

    def destroy_subscription(self, subscription):
        self.destroyed.append(subscription)
        self.subscriptions = {topic: s for topic, s in self.subscriptions.items() if s is not subscription}

    def get_topic_names_and_types(self):
        return [(topic, sorted({p.topic_type for p in found})) for topic, found in self.publishers.items()]

    def get_publishers_info_by_topic(self, topic):
        return self.publishers.get(topic, [])

    def count_publishers(self, topic):
        return len(self.publishers.get(topic, []))


def publisher(type_=RAW, reliability=ReliabilityPolicy.RELIABLE, gid=0):
    qos = QoSProfile(depth=5, reliability=reliability, durability=DurabilityPolicy.VOLATILE)
    return SimpleNamespace(
        node_name="driver", node_namespace="/robot", topic_type=type_, qos_profile=qos, endpoint_gid=[gid] * 16
    )


def camera(graph, transport="raw", bag_mode=False):
    """(input, lost counts, warnings)"""
    lost, warnings = [], []
    ignore = lambda _: None  # noqa: E731
    topics = camera_topics(graph, transport)
    made = CameraInput(
        graph,
        topics,
        transport,
        bag_mode,
        on_image=ignore,
        is_ready=lambda: True,
        on_info=ignore,
        on_lost=lost.append,
        warn=warnings.append,
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
        assert self.say({}) == "nobody publishes '/image'. There are no images on any topic: start the camera"

    def test_images_elsewhere(self):
        found = {"/a/image": [publisher()], "/b/image": [publisher()], "/easi3r/depth": [publisher()], "/gone": []}
        text = self.say(found)
        assert text.endswith("Images are on: /a/image, /b/image. To use the first: --ros-args -r image:=/a/image")

    def test_compressed_images_elsewhere(self):
        text = self.say({"/a/image/compressed": [publisher(COMPRESSED)]}, transport="compressed")
        assert text.endswith("--ros-args -r image:=/a/image")

    @pytest.mark.parametrize(("wanted", "other"), [("raw", "compressed"), ("compressed", "raw")])
    def test_images_come_the_other_way(self, wanted, other):
        topic = "/image/compressed" if other == "compressed" else "/image"
        graph = Graph(publishers={topic: [publisher(COMPRESSED if other == "compressed" else RAW)]})
        text = camera(graph, wanted)[0].why_silent()
        assert text.endswith(f"There are {other} images on: {topic}. Set image_transport to {other}")
        graph = Graph(publishers={f"/cam{topic}": graph.publishers[topic]})
        assert camera(graph, wanted)[0].why_silent().endswith("and remap -r image:=/cam/image")

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


class TestCheck:
    def test_losses_are_counted_and_said(self):
        for bag_mode, advice in ((False, "fastdds.xml"), (True, "overwrote them")):
            graph = Graph()
            made, lost, warnings = camera(graph, bag_mode=bag_mode)
            made.check()
            assert lost == [] == warnings
            events = graph.subscriptions["/image"].event_callbacks
            events.message_lost(SimpleNamespace(total_count=5, total_count_change=3))
            assert lost == [3] and len(warnings) == 1
            assert "3 images on '/image' were lost" in warnings[0] and advice in warnings[0]

    def test_losses_are_said_now_and_then(self):
        now, said = [0.0], []
        report = LossReport("/image", "why", said.append, lambda: now[0])
        for second in range(25):
            now[0] = float(second)
            report.lost(2)
            report.lost(0)
        assert [text.split()[0] for text in said] == ["2", "20", "20"]

    def test_a_middleware_that_does_not_say(self):
        graph = Graph(events=False)
        _, lost, warnings = camera(graph, bag_mode=True)
        assert lost == [None] and warnings == [] and "/image" in graph.subscriptions
        monitor = Monitor()
        assert _value(monitor, "lost by the middleware") == "0"
        monitor.image_lost(2)
        assert _value(monitor, "lost by the middleware") == "2"
        monitor.image_lost(None)
        monitor.image_lost(1)
        assert _value(monitor, "lost by the middleware") == "unknown"

    def test_a_publisher_that_cannot_be_heard_is_named_once(self):
        bad = [publisher(reliability=ReliabilityPolicy.BEST_EFFORT, gid=gid) for gid in (1, 2)]
        graph = Graph(publishers={"/image": [publisher()]})
        made, _, warnings = camera(graph, bag_mode=True)
        made.check()
        assert warnings == [], "the one there is fits"
        graph.publishers["/image"].append(bad[0])
        made.check(), made.check()
        assert len(warnings) == 1 and "is best effort, but bag_mode needs reliable delivery" in warnings[0]
        graph.publishers["/image"].append(bad[1])
        made.check()
        assert len(warnings) == 2, "another one"
        graph.publishers["/image"].clear()
        made.check()
        graph.publishers["/image"].append(bad[0])
        made.check()
        assert len(warnings) == 3, "it came back"

    def test_live_hears_everybody(self):
        graph = Graph(publishers={"/image": [publisher(reliability=ReliabilityPolicy.BEST_EFFORT)]})
        made, _, warnings = camera(graph)
        made.check()
        assert warnings == []

    @pytest.mark.parametrize("given", [{}, {"qos_overrides./image.subscription.reliability": None}])
    def test_reliability_follows_the_publishers_unless_it_is_given(self, given):
        graph = Graph()
        graph._parameter_overrides = given
        made, _, warnings = camera(graph)
        reliable = ReliabilityPolicy.RELIABLE if not given else ReliabilityPolicy.BEST_EFFORT
        asked = lambda: graph.subscriptions["/image"].qos.reliability  # noqa: E731
        assert asked() == ReliabilityPolicy.BEST_EFFORT, "nobody is there"
        graph.publishers["/image"] = [publisher()]
        made.check()
        assert asked() == reliable
        first = graph.subscriptions["/image"]
        made.check()
        assert graph.subscriptions["/image"] is first, "no new subscription without need"
        graph.publishers["/image"].append(publisher(reliability=ReliabilityPolicy.BEST_EFFORT))
        made.check()
        assert asked() == ReliabilityPolicy.BEST_EFFORT, "else the second would not be heard"
        policies = graph.subscriptions["/image"].qos_overriding_options.policy_kinds
        assert (QoSPolicyKind.RELIABILITY in policies) == bool(given)
        assert warnings == []
        made.close()
        assert graph.subscriptions == {}

    def test_no_image_is_lost_or_taken_twice_while_it_changes(self):
        graph, taken = Graph(), []
        made, _, _ = camera(graph)
        made._take = taken.append
        image = lambda n: SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=n)), data=b"abc")  # noqa: E731
        former = graph.subscriptions["/image"]
        former.callback(image(1))
        graph.publishers["/image"] = [publisher()]
        made.check()
        present = graph.subscriptions["/image"]
        assert former is not present and former not in graph.destroyed
        for subscription, number in ((former, 2), (present, 2), (present, 3), (former, 3)):
            subscription.callback(image(number))
        made.check()
        assert former in graph.destroyed
        present.callback(image(3)), present.callback(image(4))
        assert [message.header.stamp.nanosec for message in taken] == [1, 2, 3, 3, 4]

    def test_reliable_from_the_beginning_where_the_publisher_is_known(self):
        graph = Graph(publishers={"/image": [publisher()]})
        camera(graph)
        assert graph.subscriptions["/image"].qos.reliability == ReliabilityPolicy.RELIABLE


def _value(monitor, key):
    status = monitor.input_diagnostic("easi3r", "/image", Counts(), False, False)
    return next(value.value for value in status.values if value.key == key)


def test_the_only_event_of_images_waits_behind_their_gate():
    """An event that is waited for without them wakes the executor for each of them, thousands of times a second."""
    graph = Graph()
    camera(graph)
    options = graph.subscriptions["/image"]
    assert isinstance(options.callback_group, Gate)
    events = options.event_callbacks
    assert events.message_lost and not events.use_default_callbacks
    assert not any((events.incompatible_qos, events.deadline, events.liveliness))


def test_close_and_a_failed_start_leave_nothing():
    graph = Graph()
    made, _, _ = camera(graph)
    assert set(graph.subscriptions) == {"/image", "/camera_info"}
    made.close()
    assert graph.subscriptions == {}

    graph = Graph(refused="/image")
    with pytest.raises(RuntimeError, match="no such policy"):
        camera(graph)
    assert graph.subscriptions == {}


FLOOD = """
import sys, time, rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
rclpy.init()
publisher = rclpy.create_node("flood").create_publisher(Image, "/flood", QoSProfile(depth=1))
while not publisher.get_subscription_count():
    time.sleep(0.01)
time.sleep(0.5)
image = Image(height=1000, width=1000, step=3000, encoding="rgb8", data=bytes(3_000_000))
for number in range(100):
    image.header.frame_id = str(number)
    publisher.publish(image)
print("done", flush=True)
sys.stdin.read()
"""


def test_real_losses_are_counted_and_do_not_keep_the_executor_awake():
    """Another process overwrites images before they can be sent."""
    context = rclpy.Context()
    environment = session_environment()
    rclpy.init(context=context)
    node = rclpy.create_node("flooded", context=context)
    got, lost = [], []
    camera_input = CameraInput(
        node,
        CameraTopics("/flood", "/flood/camera_info"),
        "raw",
        True,
        on_image=got.append,
        is_ready=lambda: True,
        on_info=got.append,
        on_lost=lost.append,
        warn=lambda _: None,
    )
    executor = executor_for(node)
    command = [sys.executable, "-c", FLOOD]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as flood:
        assert flood.stdout.readline() == b"done\n"
        last, turns, woken = time.monotonic(), 0, 0
        while time.monotonic() - last < 3:
            before = len(got), len(lost)
            executor.spin_once(timeout_sec=0.1)
            turns += 1
            if before != (len(got), len(lost)):
                last, woken = time.monotonic(), woken + 1
        flood.stdin.close()
    assert lost and sum(lost) == 100 - len(got)
    assert turns < woken + 100, "each turn without a message or an event waits for 0.1 s"
    camera_input.close()
    executor.shutdown()
    node.destroy_node()
    context.shutdown()


def test_quality_of_service():
    assert image_qos(False).reliability == ReliabilityPolicy.BEST_EFFORT
    assert image_qos(True).reliability == ReliabilityPolicy.RELIABLE and image_qos(True).history.name == "KEEP_ALL"
