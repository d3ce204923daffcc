"""What `easi3r doctor` concludes from the ROS graph, and that it sees it."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from easi3r_ros.cli.findings import FAIL, OK, WARN
from easi3r_ros.cli.graph import judge

IMAGE = "sensor_msgs/msg/Image"


def picture(width=320, height=240, frame_id="camera"):
    header = SimpleNamespace(frame_id=frame_id)
    return SimpleNamespace(
        width=width, height=height, encoding="rgb8", data=bytes(3 * width * height), header=header, format="jpeg"
    )


def calibration(width=320, height=240, f=300.0, centre=(160.0, 120.0), frame_id="camera", d=()):
    K = np.array([[f, 0, centre[0]], [0, f, centre[1]], [0, 0, 1.0]])
    roi = SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0)
    return SimpleNamespace(
        width=width,
        height=height,
        k=K.ravel(),
        p=np.zeros(12),
        d=list(d),
        binning_x=0,
        binning_y=0,
        roi=roi,
        header=SimpleNamespace(frame_id=frame_id),
    )


def topic(last=None, info=None, type_=IMAGE, name="/cam/image_raw", received=60):
    return SimpleNamespace(
        name=name,
        type=type_,
        publishers=["/driver"],
        reliable=False,
        received=received if last else 0,
        last=last,
        info=info,
        info_publishers=0,
    )


def graph(*topics, parents=None, unheard=(), chain=("camera",), mode="tf_mode map_to_camera would work"):
    return SimpleNamespace(
        seconds=2.0,
        topics=list(topics),
        unheard=list(unheard),
        parents=parents or {},
        chains={chain[0]: list(chain)},
        modes={chain[0]: mode},
    )


def about(findings, subject):
    return next(finding for finding in findings if finding.subject.strip() == subject)


@pytest.fixture(autouse=True)
def no_profile(monkeypatch):
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)


def test_a_good_camera():
    found = judge(graph(topic(picture(), calibration())))
    assert {finding.status for finding in found} == {OK}
    assert "320 x 240 rgb8, 30.0 per second" in found[0].detail and "best effort" in found[0].detail
    assert found[0].advice == "ros2 launch easi3r_ros camera.launch.py image:=/cam/image_raw"
    assert about(found, "TF").detail == "camera: tf_mode map_to_camera would work"


def test_a_compressed_camera():
    seen = topic(picture(), calibration(), "sensor_msgs/msg/CompressedImage", "/cam/image_raw/compressed")
    assert judge(graph(seen))[0].advice.endswith("image:=/cam/image_raw image_transport:=compressed")


def test_nobody_publishes():
    assert "any image topic" in judge(graph())[0].detail and judge(graph())[0].status == WARN
    assert "'/cam'" in judge(graph(), "/cam")[0].detail


def test_silent_and_slow(monkeypatch):
    assert "nothing came in 2 s" in judge(graph(topic()))[0].detail
    slow = graph(topic(picture(640, 480), calibration(640, 480, 600.0, (320.0, 240.0)), received=4))
    assert "shared memory" in judge(slow)[0].advice
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/profile.xml")
    assert judge(slow)[0].status == OK


def test_an_image_without_a_frame():
    found = judge(graph(topic(picture(frame_id=""), calibration(frame_id=""))))
    assert "no frame_id" in found[0].advice and all(finding.subject.strip() != "TF" for finding in found)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (None, "nobody publishes it"),
        (calibration(f=0.0), "K is zero"),
        (calibration(640, 480), "for 640 x 480, the images are 320 x 240"),
        (calibration(frame_id="other"), "'other'"),
        (calibration(f=1.0), "does not fit the image's size"),
        (calibration(centre=(0.0, 0.0)), "principal point is the image's corner"),
    ],
)
def test_what_is_wrong_with_a_calibration(info, words):
    finding = about(judge(graph(topic(picture(), info))), "camera_info")
    assert finding.status == WARN and words in f"{finding.detail} {finding.advice}"


def test_a_lens():
    finding = about(judge(graph(topic(picture(), calibration(d=(0.1, 0, 0, 0, 0))))), "camera_info")
    assert finding.status == OK and "with lens distortion" in finding.detail


def test_frames():
    tree = {"camera": {"base_link"}, "base_link": {"odom"}}
    words = "tf_mode map_to_odom would work"
    seen = topic(picture(), calibration())
    found = judge(graph(seen, parents=tree, chain=("camera", "base_link", "odom"), mode=words))
    assert about(found, "TF").detail == f"camera <- base_link <- odom: {words}"
    found = judge(graph(seen, parents={"camera": {"a", "b"}}, chain=("camera", "b")))
    assert about(found, "tf").status == FAIL and "2 parents: a, b" in about(found, "tf").detail
    assert all(finding.subject.strip() != "TF" for finding in found)


def test_what_is_beyond_the_limit_is_named():
    assert "/ninth" in judge(graph(topic(picture(), calibration()), unheard=["/ninth"]))[-1].detail


def test_the_survey_sees_a_camera():
    rclpy = pytest.importorskip("rclpy")
    from geometry_msgs.msg import TransformStamped
    from sensor_msgs.msg import CameraInfo, Image
    from tf2_msgs.msg import TFMessage

    from easi3r_ros.ros.survey import survey

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("driver", namespace="/robot", context=context)
    images = node.create_publisher(Image, "/surveyed/image", 5)
    infos = node.create_publisher(CameraInfo, "/surveyed/camera_info", 5)
    transforms = node.create_publisher(TFMessage, "/tf", 5)
    transform = TransformStamped(child_frame_id="surveyed_camera")
    transform.header.frame_id = "surveyed_base"
    over = threading.Event()

    def publish():
        while not over.wait(0.05):
            image = Image(width=4, height=2, encoding="mono8", data=bytes(8))
            image.header.frame_id = "/surveyed_camera"
            images.publish(image)
            infos.publish(CameraInfo(width=4, height=2))
            transforms.publish(TFMessage(transforms=[transform]))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        found = survey(1.0, "/surveyed/image")
        nothing = survey(0.1, "/surveyed/other")
    finally:
        over.set()
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=context)
    (seen,) = found.topics
    assert (seen.name, seen.publishers, seen.reliable) == ("/surveyed/image", ["/robot/driver"], True)
    assert seen.received >= 3 and seen.last.width == 4 and seen.info.height == 2 and seen.info_publishers == 1
    assert found.parents["surveyed_camera"] == {"surveyed_base"}
    assert found.chains == {"surveyed_camera": ["surveyed_camera", "surveyed_base"]}
    assert "map_to_odom with odom_frame 'surveyed_base'" in found.modes["surveyed_camera"]
    assert nothing.topics == []
