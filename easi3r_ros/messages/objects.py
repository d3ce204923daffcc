"""What moves, as messages: this package's own, markers, and vision_msgs where it is installed. Knows no node."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from easi3r_ros.mapping.tracks import MovingObject
from easi3r_ros.messages.conversions import image_message
from easi3r_ros.messages.message_types import (
    ColorRGBA,
    DynamicObject,
    DynamicObjects,
    Header,
    Image,
    Marker,
    MarkerArray,
    Point,
    Pose,
    Vector3,
    WindowStatus,
)

try:  # not among the packages that come with a ROS 2
    from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose
except ImportError:
    Detection3DArray = None

OBJECT_TOPICS = {  # name under ~/ -> message class
    "instances": Image,
    "objects": DynamicObjects,
    "objects/markers": MarkerArray,
}
if Detection3DArray is not None:
    OBJECT_TOPICS["objects/detections"] = Detection3DArray

_CLASS = "moving"  # what else it is, nobody knows
_OPACITY = {True: 0.5, False: 0.2}  # seen in this image, only expected
_THICK = 0.03  # line of a velocity and height of a text, share of the box
_GOLDEN = 0.618  # consecutive ids get hues that are far apart


def instances_message(ids: np.ndarray, header: Header) -> Image:
    """(H, W) int32 as 32SC1: 0 static, else the object's id."""
    return image_message(ids, "32SC1", header)


def object_messages(
    objects: Sequence[MovingObject], header: Header, metric: bool, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Any]]:
    """(name in OBJECT_TOPICS, message) of what is `wanted`, but instances. header: stamp, and frame of the world."""
    if wanted("objects"):
        yield "objects", objects_message(objects, header, metric)
    if wanted("objects/markers"):
        yield "objects/markers", markers_message(objects, header)
    if "objects/detections" in OBJECT_TOPICS and wanted("objects/detections"):
        yield "objects/detections", detections_message(objects, header)


def objects_message(objects: Sequence[MovingObject], header: Header, metric: bool) -> DynamicObjects:
    return DynamicObjects(
        header=header,
        scale_state=WindowStatus.SCALE_METRIC if metric else WindowStatus.SCALE_ARBITRARY,
        objects=[
            DynamicObject(
                id=item.id,
                age=float(item.age),
                hits=item.hits,
                seen=item.seen,
                centroid=_point(item.centroid),
                centroid_covariance=item.covariance[:3, :3].ravel(),
                velocity=_vector(item.velocity),
                velocity_covariance=item.covariance[3:, 3:].ravel(),
                box_center=_point(item.box_centre),
                box_size=_vector(item.box_size),
            )
            for item in objects
        ],
    )


def markers_message(objects: Sequence[MovingObject], header: Header) -> MarkerArray:
    """Of each a box, an arrow as long as it goes in a second, and its id; all earlier ones are taken away first."""
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for item in objects:
        colour = _colour(item)
        size = np.maximum(item.box_size, 0.02 * np.linalg.norm(item.box_size) + 1e-6)  # a flat box is not drawn
        box = _marker(header, item.id, "box", Marker.CUBE, colour, size)
        box.pose.position = _point(item.box_centre)
        arrow = _marker(header, item.id, "velocity", Marker.ARROW, colour, np.array([1.0, 2.0, 0.0]) * _thick(size))
        arrow.points = [_point(item.centroid), _point(item.centroid + item.velocity)]
        text = _marker(header, item.id, "id", Marker.TEXT_VIEW_FACING, colour, np.full(3, 5 * _thick(size)))
        text.pose.position = _point(item.box_centre)
        text.text = str(item.id)
        markers += [box, arrow, text]
    return MarkerArray(markers=markers)


def no_markers(header: Header) -> MarkerArray:
    """Takes away all that were there."""
    return markers_message([], header)


def detections_message(objects: Sequence[MovingObject], header: Header) -> Any:
    """vision_msgs/Detection3DArray: id, box, and as hypothesis that it moves; its velocity has no place there."""
    detections = []
    for item in objects:
        detection = Detection3D(header=header, id=str(item.id))
        detection.bbox.center = Pose(position=_point(item.box_centre))
        detection.bbox.size = _vector(item.box_size)
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = _CLASS, 1.0
        hypothesis.pose.pose = Pose(position=_point(item.centroid))
        covariance = np.zeros((6, 6))
        covariance[:3, :3] = item.covariance[:3, :3]
        hypothesis.pose.covariance = covariance.ravel()
        detection.results = [hypothesis]
        detections.append(detection)
    return Detection3DArray(header=header, detections=detections)


def _marker(header: Header, id_: int, kind: str, shape: int, colour: ColorRGBA, size: np.ndarray) -> Marker:
    marker = Marker(header=header, ns=kind, id=id_ & 0x7FFFFFFF, type=shape, action=Marker.ADD, color=colour)
    marker.scale = _vector(size)
    return marker


def _thick(size: np.ndarray) -> float:
    return _THICK * float(size.max())


def _colour(item: MovingObject) -> ColorRGBA:
    r, g, b = colorsys.hsv_to_rgb(item.id * _GOLDEN % 1, 0.8, 1.0)
    return ColorRGBA(r=r, g=g, b=b, a=_OPACITY[item.seen])


def _point(values: np.ndarray) -> Point:
    x, y, z = (float(value) for value in values)
    return Point(x=x, y=y, z=z)


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = (float(value) for value in values)
    return Vector3(x=x, y=y, z=z)
