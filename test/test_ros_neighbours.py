"""What two nodes must not share is told once: a name, and the world frame."""

from __future__ import annotations

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from geometry_msgs.msg import TransformStamped  # noqa: E402
from helpers_ros import header  # noqa: E402

from easi3r_ros.ros.neighbours import PATIENCE, Neighbours
from easi3r_ros.ros.tf import ParentWatch

STATUS = ["easi3r_ros/msg/WindowStatus"]


class Graph:
    """Stands for the node, `/front/easi3r`."""

    def __init__(self):
        self.names, self.topics, self.time, self.said = (
            [("easi3r", "/front")],
            [("/front/easi3r/status", STATUS)],
            0.0,
            [],
        )
        self.neighbours = Neighbours(self, self.said.append, lambda: self.time)

    def get_name(self):
        return "easi3r"

    def get_namespace(self):
        return "/front"

    def get_fully_qualified_name(self):
        return "/front/easi3r"

    def get_node_names_and_namespaces(self):
        return self.names

    def get_topic_names_and_types(self):
        return self.topics

    def count_publishers(self, name):
        return 1

    def look(self, seconds=1.0, others=()):
        self.time += seconds
        self.neighbours.check("map", others)
        return self.said


@pytest.fixture
def graph():
    return Graph()


def test_alone(graph):
    graph.names.append(("easi3r", "/rear"))
    assert not graph.look() and not graph.look(2 * PATIENCE)


def test_a_namesake_is_told_once_when_no_killed_one_can_be_meant(graph):
    graph.names *= 2
    assert not graph.look() and not graph.look(PATIENCE - 1)
    assert "another node is called /front/easi3r, too" in graph.look(2)[0]
    assert len(graph.look(2 * PATIENCE)) == 1


def test_a_killed_predecessor_is_no_namesake(graph):
    graph.names *= 2
    graph.look()
    graph.look(20)
    graph.names = graph.names[:1]
    graph.look()
    graph.names *= 2
    assert not graph.look(15) and not graph.look(20)


def test_others_in_the_map_matter_beside_a_node_of_ours(graph):
    assert not graph.look(others=["person"]), "what somebody makes of our map"
    graph.topics.append(("/rear/easi3r/status", STATUS))
    assert not graph.look()
    assert "'map' also has the moving child 'rear_optical'" in graph.look(others=["rear_optical"])[0]
    assert len(graph.look(others=["rear_optical"])) == 1


def test_children_of_a_frame():
    watch = ParentWatch(lambda: 0.0)

    def transform(parent, child):
        return TransformStamped(header=header(1, parent), child_frame_id=child)

    watch.we_send(transform("map", "front_optical"))
    watch.hear([transform("map", "front_optical"), transform("map", "rear_optical"), transform("odom", "base")], False)
    watch.hear([transform("map", "dock")], True)
    assert watch.children("map") == ["rear_optical"]
