"""The contract with other programs, over real DDS: polarity, encoding, size, stamp, and pairs of exact stamps."""

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from helpers_node import FakePipeline, RunningNode  # noqa: E402
from helpers_ros import (  # noqa: E402
    FRAME_ID,
    HEIGHT,
    WIDTH,
    Client,
    best_effort,
    camera_info,
    header,
    rgb_image,
    wait_until,
)
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from easi3r_ros.messages.conversions import image_message, stamp_ns
from easi3r_ros.messages.images import array_from_image, rgb_from_image

MOVES = np.arange(WIDTH)[None] < WIDTH // 2 + np.zeros((HEIGHT, 1))  # the left half
TYPES = {
    "mask": Image,
    "mask/camera_info": CameraInfo,
    "mask_static": Image,
    "image_static": Image,
    "depth_static": Image,
    "sync/image": Image,
    "sync/camera_info": CameraInfo,
    "sync/depth": Image,
}


class HalfMoves(FakePipeline):
    """The left half moves, and what others say; an image takes as long as `seconds`."""

    seconds = 0.0

    def push(self, frame):
        time.sleep(self.seconds)
        made = super().push(frame)
        return replace(made, mask=MOVES.copy() if frame.excluded is None else MOVES | frame.excluded)


def depth_image(stamp: int, frame_id: str = FRAME_ID, size=(HEIGHT, WIDTH)) -> Image:
    made = image_message(np.full(size, 2.5, np.float32), "32FC1", header(stamp, frame_id))
    return made


def exact_pairs(*topics) -> list[tuple]:
    """As message_filters' ExactTime synchroniser: messages with one stamp on every topic."""
    by_stamp = [{stamp_ns(message.header.stamp): message for message in topic} for topic in topics]
    common = set.intersection(*(set(each) for each in by_stamp))
    return [tuple(each[stamp] for each in by_stamp) for stamp in sorted(common)]


@pytest.fixture(scope="module")
def client():
    client = Client("stacks_tester")
    client.listen(Log, "/rosout", QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    for name, type_ in TYPES.items():
        client.listen(type_, f"/easi3r/{name}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def running(client):
    HalfMoves.seconds = 0.0
    running = RunningNode("-p", "tf_mode:=none", make_pipeline=HalfMoves)

    def send(index):
        client.send(camera_info(), "/camera_info")
        client.send(depth_image(index), "/depth")  # subscribed to only when somebody wants it back
        client.send(rgb_image(index), "/image")

    client.connect("easi3r", tuple(TYPES), send)
    yield running
    running.close()


@pytest.fixture
def one(client, running):
    """One message of every topic, about the same image."""
    stamp = running.node.get_clock().now().nanoseconds
    for name in TYPES:
        client.received[f"/easi3r/{name}"].clear()
    client.send(rgb_image(stamp), "/image")
    client.send(depth_image(stamp), "/depth")  # after the image, as some drivers do
    wait_until(lambda: all(client.received[f"/easi3r/{name}"] for name in TYPES), "every output")
    return stamp, {name: client.received[f"/easi3r/{name}"][-1] for name in TYPES}


def said(client, text):
    return [log.msg for log in client.received["/rosout"] if text in log.msg]


def test_every_output_has_the_stamp_and_the_frame_of_the_image(one):
    stamp, made = one
    assert {stamp_ns(message.header.stamp) for message in made.values()} == {stamp}
    assert {message.header.frame_id for message in made.values()} == {FRAME_ID}
    assert {(message.width, message.height) for message in made.values()} == {(WIDTH, HEIGHT)}


def test_polarity_and_encoding(one):
    """nvblox and cuVSLAM: 255 moves. OpenCV and stella_vslam: 255 is to be used."""
    _, made = one
    assert made["mask"].encoding == made["mask_static"].encoding == "mono8"
    mask, static = (array_from_image(made[name]) for name in ("mask", "mask_static"))
    np.testing.assert_array_equal(mask, np.where(MOVES, 255, 0))
    np.testing.assert_array_equal(static, np.where(MOVES, 0, 255))
    assert cv2.countNonZero(static) == (~MOVES).sum()


def test_the_image_without_what_moves(one):
    stamp, made = one
    assert made["image_static"].encoding == "rgb8"
    image, given = rgb_from_image(made["image_static"]), rgb_from_image(rgb_image(stamp))
    assert not image[MOVES].any()
    np.testing.assert_array_equal(image[~MOVES], given[~MOVES])


def test_depth_without_what_moves(one):
    _, made = one
    depth = array_from_image(made["depth_static"])
    assert made["depth_static"].encoding == "32FC1" and np.isnan(depth[MOVES]).all() and (depth[~MOVES] == 2.5).all()


def test_the_bundle_is_what_came_in(one):
    stamp, made = one
    assert made["sync/image"] == rgb_image(stamp) and made["sync/depth"] == depth_image(stamp)
    assert made["sync/camera_info"] == made["mask/camera_info"]
    np.testing.assert_array_equal(made["sync/camera_info"].k, camera_info().k)


def test_quality_of_service(client, one):
    for name in TYPES:
        (publisher,) = client.publishers_of(f"/easi3r/{name}")
        assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_depth_of_another_frame_is_not_masked(client, running, one):
    for name in ("depth_static", "sync/depth"):
        client.received[f"/easi3r/{name}"].clear()
    stamp = running.node.get_clock().now().nanoseconds
    client.send(depth_image(stamp, "depth_optical"), "/depth")
    client.send(rgb_image(stamp), "/image")
    text = "'/depth' cannot be masked: it has frame_id 'depth_optical', the images have 'cam_optical'"
    wait_until(lambda: said(client, text), "a warning")
    wait_until(lambda: client.received["/easi3r/sync/depth"], "the depth itself")
    assert not client.received["/easi3r/depth_static"]


def test_live_at_30_hz_every_processed_frame_is_paired(client, running, one):
    """Images and depth at 30 Hz, 60 ms per image, so that half of them are dropped; depth now before, now after."""
    for name in TYPES:
        client.received[f"/easi3r/{name}"].clear()
    HalfMoves.seconds = 0.06
    start = running.node.get_clock().now().nanoseconds
    try:
        for index in range(90):
            stamp = start + index * 33_333_333
            messages = [(rgb_image(stamp, 0), "/image"), (depth_image(stamp), "/depth")]
            for message, topic in messages[:: 1 if index % 2 else -1]:
                client.send(message, topic)
            time.sleep(max(0.0, (stamp + 33_333_333 - running.node.get_clock().now().nanoseconds) / 1e9))
        client.quiet("easi3r", tuple(TYPES))
    finally:
        HalfMoves.seconds = 0.0
    masks = client.received["/easi3r/mask"]
    assert 20 < len(masks) < 80, "some were dropped, as live"
    pairs = exact_pairs(*(client.received[f"/easi3r/{name}"] for name in ("sync/image", "mask", "sync/depth")))
    assert len(pairs) == len(masks)
    everything = exact_pairs(*(client.received[f"/easi3r/{name}"] for name in TYPES))
    assert len(everything) == len(masks)


def test_nothing_is_made_that_nobody_wants(client, running, monkeypatch):
    """A second node, to which nobody listens but for its mask: no depth is subscribed to, no image is blacked out."""
    from easi3r_ros.messages import stacks

    made = []
    monkeypatch.setattr(stacks, "blacked_out", lambda *_: made.append(1))
    monkeypatch.setattr(stacks, "static_mask", lambda *_: made.append(1))
    other = RunningNode("-p", "tf_mode:=none", "-r", "__node:=quiet", "-r", "__ns:=/q", make_pipeline=HalfMoves)
    try:
        client.listen(Image, "/q/quiet/mask")
        client.connect("q/quiet", ("mask",), lambda index: client.send(rgb_image(index), "/q/image"))
        client.send(rgb_image(2**40), "/q/image")
        wait_until(lambda: client.received["/q/quiet/mask"], "a mask")
        time.sleep(1.1)  # as often as it looks
        assert client.node.count_subscribers("/q/depth") == 0 and made == []
    finally:
        other.close()


class TestMasksOfOthers:
    RIGHT = np.arange(WIDTH)[None] >= WIDTH - 8 + np.zeros((HEIGHT, 1))  # eight columns at the right

    def start(self, client, *arguments, name):
        running = RunningNode("-p", "tf_mode:=none", "-r", f"__ns:=/{name}", *arguments, make_pipeline=HalfMoves)
        client.listen(Image, f"/{name}/easi3r/mask")
        client.connect(f"{name}/easi3r", ("mask",), lambda index: client.send(rgb_image(index), f"/{name}/image"))
        return running

    def mask(self, client, name, stamp):
        masks = client.received[f"/{name}/easi3r/mask"]
        wait_until(lambda: any(stamp_ns(m.header.stamp) == stamp for m in masks), "a mask")
        return array_from_image(masks[-1]) > 0

    def external(self, stamp, mask):
        return image_message(mask.astype(np.uint8) * 255, "mono8", header(stamp))

    def test_of_the_image_s_stamp(self, client):
        running = self.start(client, "-p", "external_mask:=stamp", "-p", "external_mask_wait:=1.0", name="detector")
        try:
            for stamp, late in ((2**41, False), (2**41 + 100, True)):
                messages = [(self.external(stamp, self.RIGHT), "external_mask"), (rgb_image(stamp), "image")]
                for message, topic in messages[:: -1 if late else 1]:  # a detector needs a while
                    client.send(message, f"/detector/{topic}", best_effort() if topic == "external_mask" else None)
                    time.sleep(0.2)
                np.testing.assert_array_equal(self.mask(client, "detector", stamp), MOVES | self.RIGHT)
        finally:
            running.close()

    def test_latched_and_the_robot_s_body(self, client, tmp_path):
        body = np.zeros((HEIGHT, WIDTH), np.uint8)
        body[-5:] = 255
        cv2.imwrite(str(tmp_path / "body.png"), body)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        client.publisher(Image, "/latched/external_mask", latched).publish(self.external(0, self.RIGHT))
        file = f"body_mask:={tmp_path / 'body.png'}"
        running = self.start(client, "-p", "external_mask:=latest", "-p", file, name="latched")
        try:
            client.send(rgb_image(2**41), "/latched/image")
            expected = MOVES | self.RIGHT | (body > 0)
            np.testing.assert_array_equal(self.mask(client, "latched", 2**41), expected)
            client.send(image_message(np.zeros((4, 16), np.uint8), "mono8", header(1)), "/latched/external_mask")
            wait_until(
                lambda: (
                    client.send(rgb_image(2**41 + time.monotonic_ns()), "/latched/image")
                    or said(
                        client, "the mask on '/latched/external_mask' is left out: it is not of this camera's image"
                    )
                ),
                "a warning",
            )
        finally:
            running.close()

    def test_a_body_that_is_no_file(self, client):
        running = RunningNode("-p", "body_mask:=/nowhere/body.png", "-r", "__ns:=/body", make_pipeline=HalfMoves)
        try:
            text = "cannot activate: body_mask '/nowhere/body.png' does not exist: give a PNG"
            wait_until(lambda: said(client, text), "an error")
        finally:
            running.close()


def test_compressed_images_are_re_emitted_as_they_came(client):
    running = RunningNode("-p", "image_transport:=compressed", "-r", "__ns:=/jpeg", make_pipeline=HalfMoves)
    names = {"sync/image/compressed": CompressedImage, "sync/image": Image, "image_static": Image}
    for name, type_ in names.items():
        client.listen(type_, f"/jpeg/easi3r/{name}")
    data = cv2.imencode(".png", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))[1].tobytes()

    def send(index):
        client.send(CompressedImage(header=header(index), format="png", data=data), "/jpeg/image/compressed")

    try:
        client.connect("jpeg/easi3r", tuple(names), send)
        send(2**40)
        wait_until(lambda: all(client.received[f"/jpeg/easi3r/{name}"] for name in names), "every output")
        made = {name: client.received[f"/jpeg/easi3r/{name}"][-1] for name in names}
        assert bytes(made["sync/image/compressed"].data) == data
        assert (rgb_from_image(made["sync/image"]) == 90).all()
        assert not rgb_from_image(made["image_static"])[MOVES].any()
    finally:
        running.close()


def test_what_launch_files_and_layouts_name_is_published():
    """A topic that is misspelt in a layout or a launch file would stay empty without a word."""
    import json
    import re
    from pathlib import Path

    from easi3r_ros.messages.objects import OBJECT_TOPICS
    from easi3r_ros.messages.results import TOPICS
    from easi3r_ros.messages.stacks import DEPTH_TOPICS, STACK_TOPICS
    from easi3r_ros.ros.surroundings import MAP_TOPICS

    root = Path(__file__).resolve().parents[1]
    published = {f"/easi3r/{name}" for name in (*TOPICS, *STACK_TOPICS, *DEPTH_TOPICS, *OBJECT_TOPICS, *MAP_TOPICS)}
    texts = [
        (root / "rviz" / "easi3r.rviz").read_text(),
        json.dumps(json.loads((root / "foxglove" / "easi3r.json").read_text())),
    ]
    named = {name for text in texts for name in re.findall(r"/easi3r/[a-z_/]+", text)}
    given = {
        f"/easi3r/{name}"
        for path in (root / "launch").glob("*.py")
        for name in re.findall(r'topic\("([a-z_/]+)"\)', path.read_text())
    }
    assert len(named) > 6 and len(given) > 6 and named | given <= published
