"""Moving things as messages, with ROS's classes or with the stand-ins for them; vision_msgs pretended."""

from types import SimpleNamespace

import numpy as np
import pytest

from easi3r_ros.mapping.tracks import MovingObject
from easi3r_ros.messages import objects as made
from easi3r_ros.messages.conversions import time_message
from easi3r_ros.messages.images import array_from_image
from easi3r_ros.messages.message_types import Header, Marker, WindowStatus

HEADER = Header(stamp=time_message(5_000_000_007), frame_id="map")
COVARIANCE = np.diag([1.0, 2, 3, 4, 5, 6]) + 0.1
WALKER = MovingObject(
    7,
    1.5,
    30,
    True,
    np.array([1.0, 2.0, 3.0]),
    np.array([0.5, 0.0, -0.5]),
    COVARIANCE,
    np.array([1.0, 2.0, 3.5]),
    np.array([0.4, 0.0, 1.8]),
)


@pytest.mark.parametrize("metric", [True, False])
def test_fields(metric):
    message = made.objects_message([WALKER], HEADER, metric)
    (item,) = message.objects
    assert message.header == HEADER
    assert message.scale_state == (WindowStatus.SCALE_METRIC if metric else WindowStatus.SCALE_ARBITRARY)
    assert (item.id, item.age, item.hits, item.seen) == (7, 1.5, 30, True)
    assert (item.centroid.x, item.velocity.z, item.box_center.z, item.box_size.z) == (1.0, -0.5, 3.5, 1.8)
    np.testing.assert_array_equal(np.reshape(item.centroid_covariance, (3, 3)), COVARIANCE[:3, :3])
    np.testing.assert_array_equal(np.reshape(item.velocity_covariance, (3, 3)), COVARIANCE[3:, 3:])


def test_markers_take_the_earlier_ones_away_and_none_is_flat():
    markers = made.markers_message([WALKER], HEADER).markers
    assert [marker.action for marker in markers] == [Marker.DELETEALL, Marker.ADD, Marker.ADD, Marker.ADD]
    assert len({(marker.ns, marker.id) for marker in markers}) == 4
    box, arrow, text = markers[1:]
    assert min(box.scale.x, box.scale.y, box.scale.z) > 0 and text.text == "7"
    tip = arrow.points[1]
    assert (tip.x, tip.y, tip.z) == (1.5, 2.0, 2.5), "a second ahead"
    assert [marker.action for marker in made.no_markers(HEADER).markers] == [Marker.DELETEALL]


def test_instances():
    ids = np.array([[0, 7], [70_000, 0]], np.int32)
    message = made.instances_message(ids, HEADER)
    assert message.encoding == "32SC1"
    np.testing.assert_array_equal(array_from_image(message), ids)


def test_detections_where_vision_msgs_is(monkeypatch):
    def fields(**defaults):
        return lambda **values: SimpleNamespace(**{**{k: v() for k, v in defaults.items()}, **values})

    plain = SimpleNamespace
    monkeypatch.setattr(made, "Detection3D", fields(bbox=plain), raising=False)
    monkeypatch.setattr(made, "Detection3DArray", fields(), raising=False)
    hypothesis = fields(hypothesis=plain, pose=plain)
    monkeypatch.setattr(made, "ObjectHypothesisWithPose", hypothesis, raising=False)
    (detection,) = made.detections_message([WALKER], HEADER).detections
    assert (detection.id, detection.header) == ("7", HEADER)
    assert (detection.bbox.center.position.z, detection.bbox.size.x) == (3.5, 0.4)
    (result,) = detection.results
    assert result.hypothesis.class_id == "moving" and result.pose.pose.position.x == 1.0
    np.testing.assert_array_equal(np.reshape(result.pose.covariance, (6, 6))[:3, :3], COVARIANCE[:3, :3])


def test_only_what_is_wanted_is_made():
    wanted = {"objects/markers"}
    assert [name for name, _ in made.object_messages([WALKER], HEADER, True, wanted.__contains__)] == [*wanted]
