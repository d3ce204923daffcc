"""Playing: when messages are due, and what really arrives over DDS."""

import importlib.util
import os
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from helpers_io import (
    PERIOD,
    K,
    camera_bag,
    camera_info,
    encode_video,
    jpeg_image,
    picture,
    raw_image,
    stamp,
    write_bag,
    write_video,
)
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from easi3r_ros.io import SourceError
from easi3r_ros.io.playback import open_playback
from easi3r_ros.messages.images import rgb_from_image
from easi3r_ros.messages.schedule import TICK, RemapError, TimedMessage, destinations, paced

needs_ros = pytest.mark.skipif(
    importlib.util.find_spec("rclpy") is None,
    reason="no ROS 2 here: `make test` sets it up (or source an installed one)",
)


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def messages(*times_ms: int) -> list[TimedMessage]:
    return [TimedMessage("/t", stamp(0) + ms * 1_000_000, b"") for ms in times_ms]


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0])
def test_messages_come_at_their_recorded_distance(rate):
    clock = Clock()
    due = [clock.now() for _ in paced(messages(0, 100, 350), rate, now=clock.now, sleep=clock.sleep)]
    np.testing.assert_allclose(np.array(due) - 100.0, np.array([0, 0.1, 0.35]) / rate, atol=1e-9)


def test_a_slow_consumer_loses_nothing_and_catches_up():
    clock = Clock()
    late = []
    for _, lateness in paced(messages(0, 100, 200, 1000), 1.0, now=clock.now, sleep=clock.sleep):
        late.append(lateness)
        clock.sleep(0.3)
    np.testing.assert_allclose(late, [0.0, 0.2, 0.4, 0.0], atol=1e-9)


def test_the_recorded_time_is_told_all_along():
    clock, told = Clock(), []
    for _ in paced(messages(0, 1000), 2.0, told.append, clock.now, clock.sleep):
        pass
    seconds = (np.array(told) - stamp(0)) / 1e9
    assert seconds[0] == 0.0 and seconds[-1] == 1.0
    steps = np.diff(seconds)
    assert (steps >= 0).all() and steps.max() <= 2.0 * TICK + 1e-6


IMAGE, COMPRESSED, INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))
CAMERA = {"/cam/image_raw": IMAGE, "/cam/image_raw/compressed": COMPRESSED, "/cam/camera_info": INFO, "/tf": "x/msg/T"}


@pytest.mark.parametrize(
    "topics, remap, expected",
    [
        (
            {"image": IMAGE, "camera_info": INFO},
            {"image": "/eye/rgb"},
            {"image": "/eye/rgb", "camera_info": "/eye/camera_info"},
        ),
        ({"image": IMAGE, "camera_info": INFO}, {"/image": "eye"}, {"image": "eye", "camera_info": "camera_info"}),
        (
            {"image": IMAGE, "camera_info": INFO},
            {"image": "/eye/rgb", "camera_info": "/calibration"},
            {"image": "/eye/rgb", "camera_info": "/calibration"},
        ),
        (
            CAMERA,
            {"/cam/image_raw": "/eye/rgb"},
            {
                "/cam/image_raw": "/eye/rgb",
                "/cam/image_raw/compressed": "/eye/rgb/compressed",
                "/cam/camera_info": "/eye/camera_info",
                "/tf": "/tf",
            },
        ),
        (  # the raw image stays, so its calibration must stay as well
            CAMERA,
            {"/cam/image_raw/compressed": "/eye/rgb/compressed"},
            {
                "/cam/image_raw": "/cam/image_raw",
                "/cam/image_raw/compressed": "/eye/rgb/compressed",
                "/cam/camera_info": ("/cam/camera_info", "/eye/camera_info"),
                "/tf": "/tf",
            },
        ),
        (  # recorded compressed alone, and called by the name of the camera's image
            {"/cam/image_raw/compressed": COMPRESSED, "/cam/camera_info": INFO},
            {"/cam/image_raw": "/eye/rgb"},
            {"/cam/image_raw/compressed": "/eye/rgb/compressed", "/cam/camera_info": "/eye/camera_info"},
        ),
        (  # the other convention: camera_info below the image
            {"/cam/image": IMAGE, "/cam/image/camera_info": INFO},
            {"/cam/image": "/eye"},
            {"/cam/image": "/eye", "/cam/image/camera_info": "/eye/camera_info"},
        ),
        (  # another camera's is nothing of ours
            {"/left/image": IMAGE, "/left/camera_info": INFO, "/right/camera_info": INFO},
            {"/left/image": "/eye/image"},
            {
                "/left/image": "/eye/image",
                "/left/camera_info": "/eye/camera_info",
                "/right/camera_info": "/right/camera_info",
            },
        ),
        (CAMERA, {}, {topic: topic for topic in CAMERA}),
    ],
)
def test_what_belongs_to_an_image_goes_with_it(topics, remap, expected):
    wanted = {topic: place if isinstance(place, tuple) else (place,) for topic, place in expected.items()}
    assert destinations(topics, remap) == wanted


def test_remappings_that_cannot_be_are_refused():
    with pytest.raises(RemapError, match="there is no '/image_raw' to be remapped; there are: /cam/image_raw, "):
        destinations(CAMERA, {"image_raw": "/eye"})
    with pytest.raises(RemapError, match="'/tf' would carry .*: remap one of them elsewhere"):
        destinations(CAMERA, {"/cam/image_raw": "/tf"})


def test_a_bag_is_played_byte_for_byte_and_again(tmp_path):
    with open_playback(camera_bag(tmp_path / "bag", 3)) as bag:
        assert bag.topics == {
            "/cam/image_raw": "sensor_msgs/msg/Image",
            "/cam/camera_info": "sensor_msgs/msg/CameraInfo",
        }
        first, second = list(bag), list(bag)
    assert first == second and [item.time_ns for item in first][::2] == [stamp(index) + 5 for index in range(3)]


def test_topics_can_be_chosen(tmp_path):
    path = camera_bag(tmp_path / "bag", 3)
    with open_playback(path, ["/cam/image_raw"]) as bag:
        assert {item.topic for item in bag} == {"/cam/image_raw"}
    with pytest.raises(SourceError, match=r"no topic '/nothing'; its topics:[\s\S]*/cam/image_raw"):
        open_playback(path, ["/nothing"])
    with pytest.raises(SourceError, match="no bag"):
        open_playback(write_video(tmp_path / "clip.mp4"), ["/cam"])


def test_what_was_latched_stays_latched(tmp_path):
    never = QosTime(0, 0)
    qos = Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL,
        never,
        never,
        QosLiveliness.AUTOMATIC,
        never,
        False,
    )
    info = [("/cam/camera_info", "sensor_msgs/msg/CameraInfo", 1, camera_info(0))]
    for name, offered, latched in (("latched", [qos], {"/cam/camera_info"}), ("plain", [], set())):
        with open_playback(write_bag(tmp_path / name, info, qos=offered)) as bag:
            assert bag.latched == latched


def test_camera_info_is_announced_only_if_it_comes(tmp_path):
    with open_playback(write_video(tmp_path / "clip.mp4")) as playback:
        assert playback.topics == {"image": "sensor_msgs/msg/Image"}
        assert {item.topic for item in playback} == {"image"}


def test_frames_become_camera_messages_with_stamps_of_now(tmp_path):
    from easi3r_ros.messages.stand_ins import typestore

    folder = tmp_path / "images"
    folder.mkdir()
    import cv2

    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(picture(index), cv2.COLOR_RGB2BGR))
    calibration = tmp_path / "camera.yaml"
    calibration.write_text(f"image_width: 64\nimage_height: 48\ncamera_matrix: {{data: {K.ravel().tolist()}}}\n")
    before = time.time_ns()
    with open_playback(folder, rate=10.0, camera_info=calibration) as playback:
        items = list(playback)
    assert [item.topic for item in items] == ["camera_info", "image"] * 2
    info = typestore().deserialize_cdr(items[0].data, "sensor_msgs/msg/CameraInfo")
    np.testing.assert_array_equal(info.k.reshape(3, 3), K)
    image = typestore().deserialize_cdr(items[3].data, "sensor_msgs/msg/Image")
    np.testing.assert_array_equal(rgb_from_image(image), picture(1))
    assert image.header.stamp.sec * 10**9 + image.header.stamp.nanosec == items[3].time_ns
    assert items[3].time_ns - items[1].time_ns == 100_000_000 and before <= items[1].time_ns <= time.time_ns()


def test_a_video_is_played_at_the_times_of_its_frames(tmp_path):
    clip = encode_video(tmp_path / "clip.mp4", [0, 3003, 9009, 90_000])
    with open_playback(clip) as playback:
        times = [item.time_ns for item in playback]
    assert [time - times[0] for time in times] == [ticks * 10**9 // 90_000 for ticks in (0, 3003, 9009, 90_000)]


def test_rendering_a_clip_is_shown(monkeypatch):
    monkeypatch.setattr("easi3r_lab.synthetic.source._FRAMES", 3)
    told = []

    @contextmanager
    def progress(total):
        told.append(total)
        yield lambda: told.append("frame")

    with open_playback(Path("synthetic:static"), progress=progress):
        assert told == [3, "frame", "frame", "frame"]  # before anything is played


@contextmanager
def listening(kind, topic, qos):
    """[(monotonic time, message)] of a topic, filled while the context lasts."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    got: list = []
    node.create_subscription(kind, topic, lambda message: got.append((time.monotonic(), message)), qos)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield got
    finally:
        context.shutdown()
        thread.join(20)
        node.destroy_node()


@pytest.fixture
def domain(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + (os.getpid() + 7) % 100))


def arrived(got: list, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(got) < count and time.monotonic() < deadline:
        time.sleep(0.01)


@needs_ros
@pytest.mark.parametrize("reliable", [True, False])
def test_a_bag_arrives_whole_in_order_with_its_stamps_and_timing(tmp_path, domain, reliable):
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage

    from easi3r_ros.ros.player import PlayOptions, play

    policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    qos = QoSProfile(depth=100, reliability=policy)
    count, rate = 20, 2.0
    options = PlayOptions(rate=rate, reliable=reliable, wait=20.0, remap={"/cam/image_raw/compressed": "/there/image"})
    with (
        open_playback(camera_bag(tmp_path / "bag", count, image=jpeg_image)) as bag,
        listening(CompressedImage, "/there/image", qos) as got,
    ):
        report = play(bag, bag.topics, options)
        arrived(got, count if reliable else 0)
    stamps = [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for _, message in got]
    sent = [stamp(index) for index in range(count)]
    # Best effort may lose some on a busy machine, but neither order nor content.
    assert stamps == (sent if reliable else sorted(set(stamps) & set(sent))) and len(stamps) > count // 2
    for item, (_, message) in zip(stamps, got, strict=True):
        assert bytes(message.data) == bytes(jpeg_image(sent.index(item)).data)
    assert report.messages == {"/there/image": count, "/there/camera_info": count} and report.acknowledged
    expected = (count - 1) * PERIOD / 1e9 / rate
    assert expected <= report.seconds < expected + 1.0
    span = (stamps[-1] - stamps[0]) / 1e9 / rate
    assert got[-1][0] - got[0][0] == pytest.approx(span, abs=0.3)


@needs_ros
def test_the_command_line_of_the_process_is_not_the_player_s(tmp_path, domain, monkeypatch):
    """ROS arguments of the program that plays would rename topics, or end it with an error of rcl."""
    import sys

    from easi3r_ros.ros.player import PlayOptions, play

    for arguments in (["-r", "/cam/image_raw:=/elsewhere", "-r", "__ns:=/robot"], ["-r", "no remapping"]):
        monkeypatch.setattr(sys, "argv", ["program", "--ros-args", *arguments])
        with open_playback(camera_bag(tmp_path / f"bag{len(arguments)}", 2)) as bag:
            assert play(bag, bag.topics, PlayOptions()).messages == {"/cam/image_raw": 2, "/cam/camera_info": 2}


@needs_ros
def test_a_camera_info_is_played_beside_every_image(tmp_path, domain):
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import CameraInfo

    from easi3r_ros.ros.player import PlayOptions, play

    messages = [("/cam/image_rect", "sensor_msgs/msg/Image", stamp(9), raw_image(9))]
    messages += [
        (f"/cam/{name}", f"sensor_msgs/msg/{kind}", stamp(i), make(i))
        for i in range(3)
        for name, kind, make in (("image_raw", "Image", raw_image), ("camera_info", "CameraInfo", camera_info))
    ]
    options = PlayOptions(rate=10.0, wait=20.0, remap={"/cam/image_raw": "/eye/image"})
    with (
        open_playback(write_bag(tmp_path / "bag", sorted(messages, key=lambda item: item[2]))) as bag,
        listening(CameraInfo, "/eye/camera_info", QoSProfile(depth=10)) as got,
    ):
        report = play(bag, bag.topics, options)
        arrived(got, 3)
    assert report.messages == {"/cam/image_rect": 1, "/eye/image": 3, "/cam/camera_info": 3, "/eye/camera_info": 3}
    assert len(got) == 3


@needs_ros
def test_a_topic_that_ros_does_not_take_is_an_error_in_words(tmp_path, domain):
    from easi3r_ros.ros.player import PlayError, PlayOptions, play

    with (
        open_playback(camera_bag(tmp_path / "bag", 1)) as bag,
        pytest.raises(PlayError, match="'/cam/image_raw' cannot be published: .*[Ii]nvalid"),
    ):
        play(bag, bag.topics, PlayOptions(remap={"/cam/image_raw": "/an image"}))


@needs_ros
def test_clock_follows_the_recording(tmp_path, domain):
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rosgraph_msgs.msg import Clock as ClockMessage

    from easi3r_ros.ros.player import PlayOptions, play

    qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
    with (
        open_playback(camera_bag(tmp_path / "bag", 20)) as bag,
        listening(ClockMessage, "/clock", qos) as got,
    ):
        # Nobody wants the images, so waiting for a subscriber would be in vain: play twice as long as discovery takes.
        for _ in range(3):
            play(bag, bag.topics, PlayOptions(clock=True))
    times = [message.clock.sec * 10**9 + message.clock.nanosec for _, message in got]
    assert len(times) > 20
    assert stamp(0) + 5 <= min(times) and max(times) == stamp(19) + 9


@needs_ros
def test_who_comes_late_gets_what_is_latched(tmp_path, domain):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CameraInfo

    from easi3r_ros.ros.player import PlayOptions, play

    qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    slow = [("/early", "sensor_msgs/msg/CameraInfo", 0, camera_info(0))]
    slow += [("/late", "sensor_msgs/msg/CameraInfo", int(2e9), camera_info(1))]
    with (
        open_playback(write_bag(tmp_path / "bag", slow)) as bag,
        listening(CameraInfo, "/early", qos) as got,
    ):
        # Sent at once, when nobody has found the player yet.
        play(bag, bag.topics, PlayOptions(), latched={"/early"})
    assert [message.header.stamp.nanosec for _, message in got] == [camera_info(0).header.stamp.nanosec]


@needs_ros
def test_waiting_for_nobody_ends_with_a_clear_error(tmp_path, domain):
    from easi3r_ros.ros.player import PlayError, PlayOptions, play

    with (
        open_playback(camera_bag(tmp_path / "bag", 2)) as bag,
        pytest.raises(PlayError, match="nobody subscribed to /cam/image_raw, /cam/camera_info within 0.2 s"),
    ):
        play(bag, bag.topics, PlayOptions(wait=0.2))


@needs_ros
def test_types_that_are_not_installed_are_left_out(tmp_path, domain, caplog):
    from easi3r_ros.ros.player import PlayError, PlayOptions, play

    topics = {"/cam/image_raw": "sensor_msgs/msg/Image", "/cam/camera_info": "strange_msgs/msg/Thing"}
    with open_playback(camera_bag(tmp_path / "bag", 2)) as bag:
        report = play(bag, topics, PlayOptions())
        assert report.messages == {"/cam/image_raw": 2}
        assert "'/cam/camera_info' is left out: its type strange_msgs/msg/Thing is not installed" in caplog.text
        with pytest.raises(PlayError, match="nothing to play"):
            play(bag, {"/cam/camera_info": "strange_msgs/msg/Thing"}, PlayOptions())
