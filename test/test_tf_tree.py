"""Transforms over time: one table of cases for this package's tree and, where it is installed, for tf2's own buffer."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ros.mapping import tf_tree
from easi3r_ros.mapping.tf_tree import SECOND, NotYet, TooOld, TransformTree, Waiting

QUARTER = tuple(Rotation.from_euler("z", 90, degrees=True).as_quat())
NONE = (0.0, 0.0, 0.0, 1.0)
START = 1_700_000_000 * SECOND


def at(seconds):
    return START + round(seconds * SECOND)


class Tf2:
    """tf2's buffer behind the calls of TransformTree."""

    def __init__(self):
        tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros comes with a full ROS 2 only")
        from easi3r_ros.ros.tf_buffer import Tf2Buffer

        self._buffer = Tf2Buffer(tf2_ros)

    def put(self, parent, child, stamp_ns, translation, quaternion, static):
        from geometry_msgs.msg import TransformStamped

        message = TransformStamped(child_frame_id=child)
        message.header.frame_id = parent
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, SECOND)
        t, q = message.transform.translation, message.transform.rotation
        t.x, t.y, t.z = translation
        q.x, q.y, q.z, q.w = quaternion
        self._buffer.put(message, static)

    def lookup(self, *arguments):
        return self._buffer.lookup(*arguments)


@pytest.fixture(params=[TransformTree, Tf2])
def tree(request):
    """odom -> base_link (1 m/s ahead, turning 90 degrees in 1 s, every 0.1 s) -> camera_link -> optical."""
    made = request.param()
    made.put("base_link", "camera_link", 0, (0.2, 0.0, 0.3), NONE, True)
    made.put("camera_link", "optical", 0, (0.0, 0.0, 0.0), (-0.5, 0.5, -0.5, 0.5), True)
    for k in range(11):
        turn = tuple(Rotation.from_euler("z", 9 * k, degrees=True).as_quat())
        made.put("odom", "base_link", at(0.1 * k), (0.1 * k, 0.0, 0.0), turn, False)
    return made


def pose(position, degrees=0.0):
    out = np.eye(4)
    out[:3, 3] = position
    out[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    return out


LINK_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
ARM = pose([0.2, 0, 0.3]) @ LINK_FROM_OPTICAL


@pytest.mark.parametrize(
    ("target", "source", "seconds", "expected"),
    [
        ("odom", "base_link", 0.0, pose([0, 0, 0])),
        ("odom", "base_link", 1.0, pose([1, 0, 0], 90)),
        ("odom", "base_link", 0.55, pose([0.55, 0, 0], 49.5)),
        ("odom", "base_link", 0.123456, pose([0.123456, 0, 0], 11.11104)),
        ("base_link", "odom", 0.55, np.linalg.inv(pose([0.55, 0, 0], 49.5))),
        ("base_link", "optical", 0.3, ARM),
        ("base_link", "optical", 99.0, ARM),  # static: at any time
        ("optical", "base_link", -99.0, np.linalg.inv(ARM)),
        ("odom", "optical", 0.55, pose([0.55, 0, 0], 49.5) @ ARM),
        ("optical", "odom", 0.55, np.linalg.inv(pose([0.55, 0, 0], 49.5) @ ARM)),
        ("camera_link", "optical", 0.0, LINK_FROM_OPTICAL),
    ],
)
def test_lookups(tree, target, source, seconds, expected):
    np.testing.assert_allclose(tree.lookup(target, source, at(seconds)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("target", "source", "seconds", "error"),
    [
        ("odom", "optical", 1.05, NotYet),
        ("odom", "optical", -0.05, TooOld),
        ("odom", "nobody", 0.5, NotYet),
        ("nobody", "optical", 0.5, NotYet),
        ("odom", "island", 0.5, NotYet),
    ],
)
def test_what_is_not_there(tree, target, source, seconds, error):
    tree.put("sea", "island", at(0.5), (0, 0, 0), NONE, False)
    with pytest.raises(error):
        tree.lookup(target, source, at(seconds))


@pytest.mark.parametrize(("seconds", "nearest"), [(1.05, 1.0), (1.1, 1.0)])
def test_within_the_tolerance_the_nearest_is_taken(tree, seconds, nearest):
    found = tree.lookup("odom", "base_link", at(seconds), SECOND // 10)
    np.testing.assert_allclose(found, tree.lookup("odom", "base_link", at(nearest)))
    with pytest.raises(NotYet):
        tree.lookup("odom", "base_link", at(seconds + 0.06), SECOND // 10)


def test_transforms_in_any_order(tree):
    tree.put("odom", "base_link", at(1.2), (5.0, 0, 0), NONE, False)
    tree.put("odom", "base_link", at(1.1), (3.0, 0, 0), NONE, False)
    np.testing.assert_allclose(tree.lookup("odom", "base_link", at(1.15))[:3, 3], [4, 0, 0])


def test_a_frame_that_gets_another_parent(tree):
    tree.put("odom2", "base_link", at(2.0), (7.0, 0, 0), NONE, False)
    np.testing.assert_allclose(tree.lookup("odom2", "base_link", at(2.0))[:3, 3], [7, 0, 0])


@pytest.mark.parametrize(
    ("parent", "child", "translation", "quaternion"),
    [
        ("odom", "x", (0, 0, 0), (0.0, 0, 0, 0)),
        ("odom", "x", (float("nan"), 0, 0), NONE),
        ("odom", "odom", (0, 0, 0), NONE),
        ("odom", "", (0, 0, 0), NONE),
        ("", "x", (0, 0, 0), NONE),
    ],
)
def test_what_is_no_transform_is_left_out(parent, child, translation, quaternion):
    tree = TransformTree()
    assert not tree.put(parent, child, at(0), translation, quaternion, False) and not tree._links


class TestOwnTree:
    def test_a_time_that_begins_again(self):
        tree = TransformTree()
        for k in range(100):
            tree.put("odom", "base", at(k), (float(k), 0, 0), NONE, False)
        for k in range(5):
            tree.put("odom", "base", at(k), (10.0 * k, 0, 0), NONE, False)
        np.testing.assert_allclose(tree.lookup("odom", "base", at(2))[:3, 3], [20, 0, 0])

    def test_a_circle_ends(self):
        tree = TransformTree()
        tree.put("a", "b", at(0), (1, 0, 0), NONE, True)
        tree.put("b", "a", at(0), (1, 0, 0), NONE, True)
        with pytest.raises(NotYet, match="nobody broadcasts a transform of 'c'"):
            tree.lookup("c", "a", at(0))

    def test_memory_is_bounded(self, monkeypatch):
        monkeypatch.setattr(tf_tree, "MOST_FRAMES", 50)
        tree = TransformTree()
        tree.put("base", "cam", 0, (0, 0, 0), NONE, True)
        for k in range(40_000):
            tree.put("odom", "base", at(k / 1000), (k / 1000, 0, 0), NONE, False)
        for k in range(200):
            tree.put("odom", f"person_{k}", at(40), (0, 0, 0), NONE, False)
            tree.put("odom", "base", at(40 + k / 1000), (0, 0, 0), NONE, False)
        link = tree._links["base"]
        assert len(link.stamps) == len(link.values) <= 10_200 and len(tree._links) <= 51
        assert "cam" in tree._links, "static frames stay"
        with pytest.raises(TooOld, match="newer than the image"):
            tree.lookup("odom", "cam", at(1))

    def test_reasons_name_frames_and_times(self):
        tree = TransformTree()
        tree.put("odom", "base", at(0), (0, 0, 0), NONE, False)
        with pytest.raises(NotYet, match="the last transform odom -> base is 0.500 s older than the image"):
            tree.lookup("odom", "base", at(0.5))
        tree.put("sea", "island", at(0), (0, 0, 0), NONE, False)
        with pytest.raises(NotYet, match="'odom' and 'island' are not connected"):
            tree.lookup("odom", "island", at(0))


class TestWaiting:
    def answers(self, table):
        def lookup(item, last):
            answer = table[item]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return lookup

    def test_in_order_and_the_first_holds_up_the_rest(self):
        waiting, table = Waiting(1.0), {"a": NotYet("later"), "b": np.eye(4)}
        waiting.add("a", 0.0)
        waiting.add("b", 0.1)
        assert not list(waiting.resolve(self.answers(table), 0.2)) and waiting.why == "later"
        table["a"] = 2 * np.eye(4)
        assert [item for item, _ in waiting.resolve(self.answers(table), 0.3)] == ["a", "b"]
        assert not len(waiting) and waiting.given_up == 0

    def test_gives_up_in_time_and_asks_a_last_time(self):
        asked = []

        def lookup(item, last):
            asked.append(last)
            if item == "a" and not last:
                raise NotYet("later")
            return np.eye(4)

        waiting = Waiting(1.0)
        waiting.add("a", 0.0)
        assert not list(waiting.resolve(lookup, 0.5))
        assert [item for item, _ in waiting.resolve(lookup, 1.0)] == ["a"] and asked == [False, True]

    def test_what_is_gone_is_not_waited_for(self):
        waiting = Waiting(1.0)
        waiting.add("a", 0.0)
        waiting.add("b", 0.0)
        found = list(waiting.resolve(self.answers({"a": TooOld("gone"), "b": np.eye(4)}), 0.1))
        assert [item for item, _ in found] == ["b"] and waiting.given_up == 1 and waiting.why == "gone"

    def test_bounded(self):
        waiting = Waiting(1.0, most=3)
        for item in range(10):
            waiting.add(item, 0.0)
        assert len(waiting) == 3 and waiting.given_up == 7
