"""The bag of a run: the node's topics, types, stamps and frames, and the same bytes with and without ROS."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_io import FRAME_ID, HEIGHT, START, WIDTH, K, camera_info, make_result, stamp
from rosbags.highlevel import AnyReader

from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import TrackingState
from easi3r_ros.io.bag_writer import BagWriter
from easi3r_ros.io.writers import WriteError
from easi3r_ros.messages.conversions import CLOUD_DTYPE
from easi3r_ros.messages.images import array_from_image
from easi3r_ros.messages.results import TOPICS
from easi3r_ros.messages.stand_ins import message_class, type_name
from easi3r_ros.messages.status import BackboneInfo

BACKBONE = BackboneInfo("dust3r", "/weights/model.pth")


def record(folder: Path, results, info=None) -> dict[str, list]:
    """Write results and read the bag back with rosbags' own reader: topic -> [(time, message)]."""
    with BagWriter(folder, CloudConfig(stride=1), BACKBONE, lambda: info) as writer:
        for result in results:
            writer.write(result)
    messages: dict[str, list] = {}
    with AnyReader([folder]) as reader:
        for connection, time_ns, raw in reader.messages():
            assert "RIHS01" in connection.digest
            messages.setdefault(connection.topic, []).append((time_ns, reader.deserialize(raw, connection.msgtype)))
    return messages


def stamp_of(message) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def test_every_topic_of_the_node_is_there_with_the_input_s_stamps(tmp_path):
    bag = record(tmp_path / "bag", [make_result(index) for index in range(3)])
    assert set(bag) == {f"/easi3r/{name}" for name in TOPICS} | {"/tf"}
    for topic, items in bag.items():
        messages = [message.transforms[0] if topic == "/tf" else message for _, message in items]
        expected = range(1) if topic == "/easi3r/path" else range(3)  # a path repeats its poses once a second
        assert [stamp_of(message) for message in messages] == [stamp(index) for index in expected], topic
        assert [time_ns for time_ns, _ in items] == [stamp(index) for index in expected], topic
        in_map = topic.rpartition("/")[2] in ("pose", "odometry", "path", "tf")
        assert {message.header.frame_id for message in messages} == {"map" if in_map else FRAME_ID}, topic


def test_images_carry_the_result(tmp_path):
    result = make_result(0)
    bag = record(tmp_path / "bag", [result])
    mask = bag["/easi3r/mask"][0][1]
    assert (mask.encoding, mask.width, mask.height) == ("mono8", WIDTH, HEIGHT)
    np.testing.assert_array_equal(array_from_image(mask), result.mask * np.uint8(255))
    for name, array in (("probability", result.probability), ("depth", result.depth)):
        message = bag[f"/easi3r/{name}"][0][1]
        assert message.encoding == "32FC1"
        np.testing.assert_array_equal(array_from_image(message), array)


def test_clouds_hold_the_points_of_their_side_of_the_mask(tmp_path):
    result = make_result(0)
    bag = record(tmp_path / "bag", [result])
    dynamic = np.frombuffer(bag["/easi3r/points/dynamic"][0][1].data, CLOUD_DTYPE)
    static = np.frombuffer(bag["/easi3r/points/static"][0][1].data, CLOUD_DTYPE)
    assert len(dynamic) == result.mask.sum() and set(dynamic["z"]) == {1.0}
    assert len(static) == np.isfinite(result.depth).sum() - len(dynamic) and set(static["z"]) == {2.0}


def test_pose_odometry_and_tf_agree(tmp_path):
    bag = record(tmp_path / "bag", [make_result(index) for index in range(3)])
    pose, odometry = bag["/easi3r/pose"][2][1], bag["/easi3r/odometry"][2][1]
    transform = bag["/tf"][2][1].transforms[0]
    assert (odometry.child_frame_id, transform.child_frame_id) == (FRAME_ID, FRAME_ID)
    assert pose.pose.pose.position.x == odometry.pose.pose.position.x == transform.transform.translation.x
    assert pose.pose.pose.position.x == pytest.approx(0.2)
    assert odometry.twist.twist.linear.x == pytest.approx(0.1 / 0.04)


def test_a_path_once_a_second_has_every_pose_since(tmp_path):
    paths = [path for _, path in record(tmp_path / "bag", [make_result(index) for index in range(60)])["/easi3r/path"]]
    assert [stamp_of(path) for path in paths] == [stamp(0), stamp(25), stamp(50)]  # 25 a second
    assert [len(path.poses) for path in paths] == [1, 26, 51]
    assert [stamp_of(pose) for pose in paths[1].poses] == [stamp(index) for index in range(26)]


@pytest.mark.parametrize("state", [TrackingState.INITIALISING, TrackingState.LOST])
def test_nothing_is_said_about_a_pose_that_was_not_measured(tmp_path, state):
    bag = record(tmp_path / "bag", [make_result(0), make_result(1, state), make_result(2)])
    for topic, count in {"pose": 2, "odometry": 2, "mask": 3, "status": 3}.items():
        assert len(bag[f"/easi3r/{topic}"]) == count
    assert [stamp_of(message.transforms[0]) for _, message in bag["/tf"]] == [stamp(0), stamp(2)]
    assert bag["/easi3r/status"][1][1].reason == "because"


def test_status_says_what_ran(tmp_path):
    status = record(tmp_path / "bag", [make_result(index) for index in range(4)])["/easi3r/status"][3][1]
    assert (status.backbone, status.uses_checkpoint, status.checkpoint) == ("dust3r", True, "/weights/model.pth")
    assert list(status.window_frames) == [1, 2, 3]
    assert [time.sec * 1_000_000_000 + time.nanosec for time in status.window_stamps] == [stamp(i) for i in (1, 2, 3)]
    assert status.stage_names == ["encode", "decode"] and list(status.stage_latency_ms) == [2.0, 3.0]
    assert (status.frames_received, status.frames_processed, status.frames_dropped) == (4, 4, 0)
    assert math.isnan(status.total_latency_ms)


def test_the_received_calibration_goes_with_mask_and_depth(tmp_path):
    info = camera_info(5)
    info.d = [0.1, 0.0, 0.0, 0.0, 0.0]
    bag = record(tmp_path / "bag", [make_result(0)], info)
    for name in ("mask/camera_info", "depth/camera_info"):
        message = bag[f"/easi3r/{name}"][0][1]
        assert stamp_of(message) == START and message.d[0] == 0.1
        np.testing.assert_array_equal(message.k.reshape(3, 3), K)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    with pytest.raises(WriteError, match="exists already"):
        BagWriter(tmp_path, CloudConfig(), BACKBONE)


def test_stand_ins_begin_as_ros_messages_do():
    odometry = message_class("nav_msgs/msg/Odometry")()
    assert odometry.pose.pose.orientation.w == 1.0 and len(odometry.pose.covariance) == 36
    image = message_class("sensor_msgs/msg/Image")(data=b"\x01\x02", height=1)
    np.testing.assert_array_equal(image.data, [1, 2])
    assert type_name(type(image)) == "sensor_msgs/msg/Image"
    with pytest.raises(TypeError, match="heigth"):
        message_class("sensor_msgs/msg/Image")(heigth=1)


# Builds one of each message and writes down their bytes; ROS is made impossible to import on request.
BUILD = """
import pickle, sys
if sys.argv[2] == "without":
    class NoRos:
        def find_spec(self, name, path=None, target=None):
            if name == "easi3r_ros.msg" or name.split(".")[0].endswith(("_msgs", "_interfaces")):
                raise ModuleNotFoundError(name, name=name)
    sys.meta_path.insert(0, NoRos())
from helpers_io import *
from easi3r_ros.core.config import CloudConfig
from easi3r_ros.messages.message_types import WITH_ROS, TFMessage
from easi3r_ros.messages.results import ResultMessages
from easi3r_ros.messages.status import BackboneInfo, Timing, status_message
from easi3r_ros.messages.status import Counts
from easi3r_ros.messages.stand_ins import type_name
assert WITH_ROS == (sys.argv[2] == "with")
results, made = ResultMessages("map", 10, CloudConfig(stride=1)), []
for index in range(3):
    result = make_result(index)
    made += [m for _, m in results.make(result, header(index), camera_info(index) if index else None, lambda _: True)]
    made.append(TFMessage(transforms=[results.transform(result, header(index))]))
    timing, stamps = Timing(1.0, 2.0, 3.0), [stamp(i) for i in result.window]
    made.append(status_message(result, header(index), stamps, BackboneInfo("a", "b"), timing, Counts(3, 2, 0, 1)))
out = [(type_name(type(m)), bytes(serialize(m))) for m in made]
if WITH_ROS:
    from rclpy.serialization import serialize_message
    for message, (name, ours) in zip(made, out):
        # ROS leaves whatever was in memory in the gaps between fields: read and write again before comparing.
        theirs = typestore().deserialize_cdr(serialize_message(message), name)
        assert bytes(typestore().serialize_cdr(theirs, name)) == ours, name
pickle.dump(out, open(sys.argv[1], "wb"))
"""


def build(path: Path, ros: str) -> list[tuple[str, bytes]]:
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "test"), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", BUILD, str(path), ros]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pickle.loads(path.read_bytes())


def test_messages_are_the_same_bytes_with_and_without_ros(tmp_path):
    pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")
    with_ros, without = build(tmp_path / "with", "with"), build(tmp_path / "without", "without")
    assert [name for name, _ in with_ros] == [name for name, _ in without]
    assert {name for name, _ in with_ros} == {type_name(kind) for kind in TOPICS.values()} | {"tf2_msgs/msg/TFMessage"}
    for (name, ours), (_, theirs) in zip(without, with_ros, strict=True):
        assert ours == theirs, name
