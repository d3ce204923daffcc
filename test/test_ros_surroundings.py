"""Objects, map and save_map over real DDS, and what reset and pause do to them."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from easi3r_ros.msg import DynamicObjects, WindowStatus  # noqa: E402
from easi3r_ros.srv import SaveMap  # noqa: E402
from helpers_node import FakePipeline, RunningNode  # noqa: E402
from helpers_ros import FRAME_ID, HEIGHT, WIDTH, Client, rgb_image, wait_until  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image, PointCloud2  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from easi3r_ros.core.types import TrackingState
from easi3r_ros.mapping import voxel_map
from easi3r_ros.messages.conversions import stamp_ns
from easi3r_ros.messages.images import array_from_image
from easi3r_ros.ros import surroundings

TENTH = 100_000_000
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OBJECTS = {"instances": Image, "objects": DynamicObjects, "objects/markers": MarkerArray, "status": WindowStatus}


class Walker(FakePipeline):
    """A wall 4 m away, and before it a thing 2 m away that goes to the right by one column per image; without a mask
    while it is `careless`. In another world, with another unit, without a pose as it is told."""

    careless, world, metric, state = False, 0, True, TrackingState.TRACKING

    def push(self, frame):
        left = 10 + frame.index % 50
        mask, depth = np.zeros((HEIGHT, WIDTH), bool), np.full((HEIGHT, WIDTH), 4, np.float32)
        if not Walker.careless or frame.index < 3:
            mask[20:60, left : left + 20] = True
            depth[mask] = 2.0
        if Walker.careless:
            mask[:] = False
        return replace(
            super().push(frame),
            mask=mask,
            depth=depth,
            confidence=np.full((HEIGHT, WIDTH), 3, np.float32),
            world=Walker.world,
            metric=Walker.metric,
            state=Walker.state,
        )


def said(client, text):
    return [log.msg for log in client.received["/rosout"] if text in log.msg]


@pytest.fixture(scope="module")
def client():
    client = Client("surroundings_tester")
    client.listen(Log, "/rosout", QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    yield client
    client.close()


@pytest.fixture(autouse=True)
def usual():
    Walker.careless, Walker.world, Walker.metric, Walker.state = False, 0, True, TrackingState.TRACKING


class Run:
    """A node of a name and what was received of it."""

    def __init__(self, client, name, *arguments, listen=("status",)):
        self.client, self.name, self.stamp = client, name, 2**40
        arguments = ("-p", "tf_mode:=none", "-p", "clouds.movers:=measured", *arguments)
        self.running = RunningNode("-r", f"__node:={name}", *arguments, make_pipeline=Walker)
        for each in listen:
            client.listen(OBJECTS[each], f"/{name}/{each}")
        client.connect(name, tuple(listen), lambda index: client.send(rgb_image(index * TENTH), "/image"))

    def of(self, topic):
        return self.client.received[f"/{self.name}/{topic}"]

    def shoot(self, count=1):
        """The messages about the last of so many images, a tenth of a second apart."""
        for _ in range(count):
            self.stamp += TENTH
            self.client.send(rgb_image(self.stamp), "/image")
            wait_until(lambda: self.of("status") and stamp_ns(self.of("status")[-1].header.stamp) == self.stamp, "it")

    def map(self, count=1):
        """The clouds that somebody gets who listens from now on."""
        received = self.client.received[f"/{self.name}/map"]
        received.clear()
        subscription = self.client.listen(PointCloud2, f"/{self.name}/map", LATCHED)
        wait_until(lambda: len(received) >= count, "a map")
        self.client.node.destroy_subscription(subscription)
        return received[-1]

    def save(self, path, overwrite=False):
        return self.client.call(SaveMap, f"/{self.name}/save_map", SaveMap.Request(path=str(path), overwrite=overwrite))

    def close(self):
        self.running.close()


def xyz(cloud) -> np.ndarray:
    return np.frombuffer(cloud.data, np.float32).reshape(-1, 5)[:, :3]


@pytest.fixture
def run(client):
    started = []

    def run(*args, **options):
        started.append(Run(client, *args, **options))
        return started[-1]

    yield run
    for each in started:
        each.close()


def test_objects(client, run):
    """Twenty columns at 2 m with a focal length of 50 pixels go 0.4 m per second to the right."""
    node = run("objects", listen=tuple(OBJECTS))
    node.shoot(25)
    wait_until(lambda: stamp_ns(node.of("objects")[-1].header.stamp) == node.stamp, "objects")
    made = node.of("objects")[-1]
    (item,) = made.objects
    assert made.header.frame_id == "map" and made.scale_state == WindowStatus.SCALE_METRIC
    # REP-103: x is forward, y to the left.
    assert (item.velocity.x, item.velocity.y, item.velocity.z) == pytest.approx((0, -0.4, 0), abs=0.03)
    assert item.centroid.x == pytest.approx(2, abs=0.02) and item.seen and item.hits == 25
    assert item.box_size.y == pytest.approx(20 / 50 * 2, rel=0.15)
    assert np.linalg.eigvalsh(np.reshape(item.velocity_covariance, (3, 3))).min() > 0
    ids = node.of("instances")[-1]
    assert (ids.encoding, ids.width, ids.height, ids.header.frame_id) == ("32SC1", WIDTH, HEIGHT, FRAME_ID)
    assert ids.header.stamp == made.header.stamp and ids.step == 4 * WIDTH
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[20:60, 34:54] = item.id
    np.testing.assert_array_equal(array_from_image(ids), expected)
    markers = node.of("objects/markers")[-1].markers
    assert markers[0].action == Marker.DELETEALL and {m.ns for m in markers[1:]} == {"box", "velocity", "id"}
    assert all(m.header.frame_id == "map" and m.id == item.id for m in markers[1:])
    text = next(m for m in markers if m.ns == "id")
    assert text.text == str(item.id)
    assert {"objects", "all"} <= set(node.of("status")[-1].stage_names)


def test_without_a_pose_nothing_is_said_of_places_but_ids_go_on(client, run):
    node = run("placeless", listen=tuple(OBJECTS))
    node.shoot(4)
    before = len(node.of("objects"))
    id_ = array_from_image(node.of("instances")[-1]).max()
    Walker.state = TrackingState.LOST
    node.shoot(2)
    wait_until(lambda: stamp_ns(node.of("instances")[-1].header.stamp) == node.stamp, "instances")
    assert len(node.of("objects")) == before and array_from_image(node.of("instances")[-1]).max() == id_ > 0


def test_after_a_reset_markers_are_gone_and_ids_are_new(client, run):
    node = run("again", listen=tuple(OBJECTS))
    node.shoot(4)
    first = node.of("objects")[-1].objects[0].id
    assert client.call(Trigger, "/again/reset", Trigger.Request()).success
    wait_until(lambda: len(node.of("objects/markers")[-1].markers) == 1, "no markers")
    node.shoot(4)
    wait_until(lambda: stamp_ns(node.of("objects")[-1].header.stamp) == node.stamp, "objects")
    assert node.of("objects")[-1].objects[0].id > first


def test_nothing_is_followed_for_nobody(client, run, monkeypatch):
    made = []
    monkeypatch.setattr(surroundings.ObjectTracker, "update", lambda *_: made.append("objects"))
    monkeypatch.setattr(voxel_map.VoxelMap, "add", lambda *_: made.append("map"))
    node = run("idle")
    node.shoot(5)
    assert made == []


class TestMap:
    def test_who_comes_late_gets_what_was_kept(self, client, run):
        node = run("kept", "-p", "map.enabled:=true", "-p", "map.voxel_size:=0.1")
        node.shoot(15)
        cloud = node.map()
        (publisher,) = client.publishers_of("/kept/map")
        assert publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert cloud.header.frame_id == "map" and [f.name for f in cloud.fields] == ["x", "y", "z", "rgb", "confidence"]
        assert len(xyz(cloud)) > 200
        np.testing.assert_allclose(xyz(cloud)[:, 0], 4.0, atol=1e-4)  # the wall alone: x is forward

    def test_a_ghost_goes_with_a_later_message(self, client, run):
        Walker.careless = True
        node = run("ghost", "-p", "map.enabled:=true", "-p", "map.voxel_size:=0.1", "-p", "map.period:=0.0")
        node.shoot(3)
        assert (xyz(node.map())[:, 0] < 3).any(), "it was taken for a thing that stays"
        node.shoot(6)
        assert not (xyz(node.map())[:, 0] < 3).any()

    def test_reset_empties_it_and_pause_keeps_it(self, client, run, tmp_path):
        node = run("emptied", "-p", "map.enabled:=true", "-p", "map.voxel_size:=0.1", "-p", "map.period:=0.0")
        node.shoot(5)
        assert client.call(SetBool, "/emptied/pause", SetBool.Request(data=True)).success
        before = len(xyz(node.map()))
        for index in range(3):
            client.send(rgb_image(2**50 + index * TENTH), "/image")
        answer = node.save(tmp_path / "paused.ply")
        assert answer.success and answer.points == before > 200, "a paused node still writes its map"
        assert client.call(SetBool, "/emptied/pause", SetBool.Request(data=False)).success
        assert client.call(Trigger, "/emptied/reset", Trigger.Request()).success
        assert len(xyz(node.map())) == 0
        assert "there is no map yet" in node.save(tmp_path / "b.ply").message

    @pytest.mark.parametrize("what", ["world", "metric"])
    def test_what_cannot_be_compared_is_not_mixed(self, client, run, what):
        node = run(f"other_{what}", "-p", "map.enabled:=true", "-p", "map.voxel_size:=0.1", "-p", "map.period:=0.0")
        node.shoot(5)
        setattr(Walker, what, 1 if what == "world" else False)
        node.shoot(1)
        words = "a new world was begun" if what == "world" else "the unit of lengths changed"
        wait_until(lambda: said(client, f"~/map starts again: {words}"), "a warning")
        assert len(xyz(node.map())) == 0
        node.shoot(3)
        assert len(xyz(node.map())) > 200

    def test_a_full_map_says_so_once(self, client, run):
        node = run("full", "-p", "map.enabled:=true", "-p", "map.voxel_size:=0.02", "-p", "map.max_voxels:=1000")
        node.shoot(6)
        wait_until(
            lambda: said(client, "~/map is full (1000 cells): what was seen longest ago makes room"), "a warning"
        )
        assert len(said(client, "~/map is full")) == 1


class TestSaveMap:
    def test_it_is_written_and_never_over_another(self, client, run, tmp_path):
        node = run("saved", "-p", "map.enabled:=true", "-p", "map.voxel_size:=0.1")
        path = tmp_path / "map.ply"
        node.shoot(5)
        answer = node.save(path)
        assert answer.success and answer.path == str(path) and answer.points > 200
        assert f"{answer.points} points written to '{path}'; unit: metres" in answer.message
        content = path.read_bytes()
        assert f"comment frame map, unit: metres\nelement vertex {answer.points}\n".encode() in content
        again = node.save(path)
        assert not again.success and again.path == "" and "is there already" in again.message
        assert path.read_bytes() == content
        assert node.save(path, overwrite=True).success and node.save(tmp_path / "map.pcd").success

    def test_why_not(self, client, run, tmp_path):
        node = run("refused", "-p", "map.enabled:=true", "-p", "map.voxel_size:=0.1")
        assert "wait until the camera has a pose" in node.save(tmp_path / "a.ply").message
        node.shoot(5)
        for path, words in (
            ("map.ply", "'map.ply' is relative"),
            (tmp_path / "none" / "a.ply", "make it first"),
            (tmp_path / "a.las", "must end with .ply or .pcd"),
        ):
            answer = node.save(path)
            assert not answer.success and words in answer.message and not answer.path
        assert list(tmp_path.iterdir()) == []

    def test_without_a_map_it_says_what_to_do(self, client, run, tmp_path):
        node = run("mapless")
        node.shoot(3)
        answer = node.save(tmp_path / "a.ply")
        assert not answer.success and "subscribe to ~/map, or set map.enabled" in answer.message

    def test_an_inactive_node(self, client):
        running = RunningNode("-r", "__node:=asleep", "-p", "autostart:=false", make_pipeline=Walker)
        try:
            answer = client.call(SaveMap, "/asleep/save_map", SaveMap.Request(path="/tmp/a.ply"))
            assert not answer.success and answer.message == "the node is not active"
        finally:
            running.close()
