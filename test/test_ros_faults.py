"""Processes that die, hang or come back, and clocks that jump, each beside a node that must go on."""

import signal
import time

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

import helpers_faults as faults  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from easi3r_ros.msg import WindowStatus  # noqa: E402
from easi3r_ros.srv import SaveMap  # noqa: E402
from helpers_ros import SECOND, Client, best_effort, rgb_image, wait_until  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from easi3r_ros.messages.conversions import stamp_ns, time_message

TENTH = SECOND // 10


@pytest.fixture(scope="module")
def client():
    client = Client("faults_tester")
    client.listen(DiagnosticArray, "/diagnostics")
    yield client
    client.close()


@pytest.fixture
def forks():
    """Every process that is put into this list is killed at the end."""
    forks = []
    yield forks
    for fork in forks:
        fork.close()


@pytest.fixture
def begin(client, forks):
    """begin(name, arguments): a node of which masks and status are listened to, when it waits for images."""

    def begin(name, *arguments, **options):
        for topic, type_ in (("mask", Image), ("status", WindowStatus)):
            if f"/{name}/{topic}" not in client.received:
                client.listen(type_, f"/{name}/{topic}")
        namespace, _, base = name.rpartition("/")
        arguments = (*arguments, f"-r__ns:=/{namespace}") if namespace else arguments
        forks.append(faults.node(base, *arguments, **options))
        forks[-1].says("waiting for images")
        return forks[-1]

    return begin


def masks(client, name):
    return client.received[f"/{name}/mask"]


def go_on(client, name, count=3):
    """So many more masks come."""
    before = len(masks(client, name))
    wait_until(lambda: len(masks(client, name)) >= before + count, f"masks of {name}", 30)


def diagnosed(client, name, part):
    """The newest diagnostic of a part of a node, "input" or "tracking"; None: none yet."""
    found = [s for array in client.received["/diagnostics"] for s in array.status if s.name == f"{name}: {part}"]
    return found[-1] if found else None


def send(client, name, stamps, topic="/image"):
    """One image for each stamp, the next when the status of the last one is there, for those that get one."""
    for index, stamp in enumerate(stamps):
        client.send(rgb_image(stamp, index), topic)
        try:
            wait_until(lambda s=stamp: answered(client, name, s), f"the status of {stamp}", 5)
        except AssertionError:  # the middleware may lose one on a busy machine; a node that hears nothing fails again
            client.send(rgb_image(stamp, index), topic)
            wait_until(lambda s=stamp: answered(client, name, s), f"the status of {stamp}", 10)


def answered(client, name, stamp):
    return any(stamp_ns(status.header.stamp) == stamp for status in client.received[f"/{name}/status"])


def connect(client, name, topic="/image"):
    """Both have found each other, and the node has subscribed anew with the camera's reliability."""

    def reliable():
        found = [s for s in client.node.get_subscriptions_info_by_topic(topic) if s.node_name == name]
        return any(subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE for subscription in found)

    client.publisher(Image, topic)
    wait_until(reliable, "a reliable subscription")
    client.connect(name, ("mask", "status"), lambda index: client.send(rgb_image(1 + index * TENTH), topic))


class TestKilled:
    def test_a_node_that_is_killed_and_started_again_beside_a_running_camera(self, client, begin, forks):
        forks.append(faults.camera("/image"))
        first = begin("again")
        go_on(client, "again")
        first.kill()
        begin("again")
        go_on(client, "again")
        assert forks[0].alive and client.received["/again/status"][-1].frame_index < 1000

    def test_a_camera_that_is_killed_and_started_again_beside_a_running_node(self, client, begin, forks):
        node = begin("stays", "-pimage_timeout:=0.5")
        forks.append(faults.camera("/image"))
        go_on(client, "stays")
        forks[-1].kill()
        node.says("no images on '/image' for 0.5 s")
        # To the middleware a killed publisher lives until its lease is over.
        wait_until(lambda: diagnosed(client, "stays", "input").level == DiagnosticStatus.STALE, "a diagnostic", 10)
        silence = diagnosed(client, "stays", "input").message
        assert "sends nothing: check the camera" in silence or "nobody publishes '/image'" in silence
        forks.append(faults.camera("/image"))
        go_on(client, "stays")
        wait_until(lambda: diagnosed(client, "stays", "input").level == DiagnosticStatus.OK, "the next one", 10)
        assert "new world" not in node.log, "time went on, so the world does"

    def test_a_player_that_is_killed_in_bag_mode(self, client, begin, forks):
        node = begin("bag", "-pbag_mode:=true")
        forks.append(faults.player("/image", [SECOND + index * TENTH for index in range(1000)], 0.05))
        go_on(client, "bag")
        forks[-1].kill()
        stamps = [10_000 * SECOND + index * TENTH for index in range(5)]
        forks.append(faults.player("/image", stamps, 0.05))
        forks[-1].says("played {'/image': 5} acknowledged")
        wait_until(lambda: [stamp for stamp in stamps if answered(client, "bag", stamp)] == stamps, "every image")
        assert node.alive and client.received["/bag/status"][-1].frames_dropped == 0

    @pytest.mark.parametrize("reliable", [True, False])
    def test_subscribers_that_never_read_hang_and_are_killed(self, client, begin, forks, reliable):
        name = f"unread_{reliable}".lower()
        node = begin(name)
        forks.append(faults.deaf(f"/{name}/mask", reliable))
        forks[-1].says("subscribed")
        connect(client, name)
        stamps = iter([SECOND * 100 + index * TENTH for index in range(90)])
        for hurt in (lambda: None, lambda: forks[-1].send(signal.SIGSTOP), forks[-1].kill):
            hurt()
            start = time.monotonic()
            send(client, name, [next(stamps) for _ in range(30)])
            assert time.monotonic() - start < 10
        wait_until(lambda: len(masks(client, name)) == 90, "every mask")
        assert node.alive

    def test_a_node_that_is_stopped_for_a_while(self, client, begin, forks):
        """A computer that sleeps. What waits is old; the newest counts."""
        forks.append(faults.camera("/image"))
        node = begin("sleeper")
        go_on(client, "sleeper")
        node.send(signal.SIGSTOP)
        time.sleep(1.5)
        node.send(signal.SIGCONT)
        go_on(client, "sleeper")
        assert time.time_ns() - stamp_ns(masks(client, "sleeper")[-1].header.stamp) < SECOND
        assert "new world" not in node.log and "Traceback" not in node.log


class TestTime:
    def test_simulated_time(self, client, begin):
        """It stands still, leaps ahead, goes back a little, and begins again."""
        node = begin("simulated", "-puse_sim_time:=true")
        connect(client, "simulated")
        clock = client.publisher(Clock, "/clock", best_effort())
        wait_until(lambda: clock.get_subscription_count(), "who looks at the clock")

        def at(seconds):
            for _ in range(3):  # best effort
                clock.publish(Clock(clock=time_message(int(seconds * SECOND))))
                time.sleep(0.02)
            send(client, "simulated", [int(seconds * SECOND)])

        for seconds in (100, 100.05, 5000, 5000.05):
            at(seconds)
        assert "jumped back" not in node.log
        before = client.received["/simulated/status"][-1].frame_index
        at(3)
        node.says("simulated time jumped back by 4997.050 s: a new world begins")
        assert client.received["/simulated/status"][-1].frame_index == 0 < before
        before = len(client.received["/diagnostics"])
        wait_until(lambda: len(client.received["/diagnostics"]) > before, "diagnostics in wall time", 5)

    def test_stamps_that_leap_ahead_and_back(self, client, begin):
        """A clock that is set: an hour ahead nothing is lost, an hour back is a new world, not an hour of silence."""
        node = begin("clock")
        connect(client, "clock")
        hour = 3600 * SECOND
        send(client, "clock", [10 * hour, 10 * hour + TENTH, 11 * hour, 11 * hour + TENTH])
        assert "jumped back" not in node.log
        send(client, "clock", [10 * hour + 1, 10 * hour + TENTH + 1])
        node.says("time jumped back by 3600.100 s: tracking starts again in a new world")

    @pytest.mark.parametrize("bag_mode", [True, False])
    def test_a_bag_that_is_looped(self, client, begin, forks, bag_mode):
        name = f"looped_{bag_mode}".lower()
        node = begin(name, f"-pbag_mode:={bag_mode}".lower())
        stamps = [SECOND + index * TENTH for index in range(15)]
        forks.append(faults.player("/image", stamps, 0.02, loop=True))
        wait_until(lambda: len(masks(client, name)) > 3 * len(stamps), "three rounds", 30)
        node.says("time jumped back by 1.400 s: tracking starts again in a new world")
        received = [stamp_ns(mask.header.stamp) for mask in masks(client, name)]
        if bag_mode:  # discovery may cost the first ones
            rounds = received[received.index(stamps[0], 1) :]
            assert rounds == (stamps * 99)[: len(rounds)], "each image of each round"


class TestTwoCameras:
    def test_in_namespaces_nothing_is_shared(self, client, begin, forks):
        for side in ("front", "rear"):
            forks.append(faults.camera(f"/{side}/image"))
            begin(f"{side}/easi3r", f"-pmap_frame:={side}_map", "-pimage_timeout:=0.5")
        for side in ("front", "rear"):
            go_on(client, f"{side}/easi3r")
            wait_until(lambda s=side: diagnosed(client, f"{s}/easi3r", "input"), f"a diagnostic of {side}", 10)
        forks[0].kill()  # the camera in front
        level = {}

        def one_is_silent():
            level.update({side: diagnosed(client, f"{side}/easi3r", "input").level for side in ("front", "rear")})
            return level == {"front": DiagnosticStatus.STALE, "rear": DiagnosticStatus.OK}

        wait_until(one_is_silent, f"one silent, one not: {level}", 10)
        go_on(client, "rear/easi3r")
        assert diagnosed(client, "rear/easi3r", "tracking").level == DiagnosticStatus.OK

    def test_in_one_map_they_are_told(self, client, begin, forks):
        nodes = []
        for side in ("left", "right"):
            forks.append(faults.camera(f"/{side}/image"))
            nodes.append(begin(f"{side}/easi3r", "-ptf_mode:=map_to_camera"))
        text = "'map' also has the moving child 'right_image_optical', and there is another node of easi3r_ros"
        nodes[0].says(text, 15)
        assert nodes[0].log.count("moving child") == 1


class TestFullDisk:
    def test_save_map(self, client, begin, tmp_path):
        """The file may be as long as the disk has room; what does not fit leaves nothing behind."""
        node = begin("full", "-pmap.enabled:=true", "-pmap.voxel_size:=0.02", pipeline="Wall", most_bytes=20_000)
        connect(client, "full")
        send(client, "full", [SECOND * 100 + index * TENTH for index in range(6)])
        request = SaveMap.Request(path=str(tmp_path / "map.ply"))
        answer = client.call(SaveMap, "/full/save_map", request)
        assert not answer.success and "cannot write" in answer.message and "File too large" in answer.message
        assert list(tmp_path.iterdir()) == [] and "Traceback" not in node.log
        send(client, "full", [SECOND * 200])


class TestQualityOfService:
    def test_of_inputs_and_outputs_by_parameters(self, client, begin):
        node = begin(
            "chosen",
            "-pqos_overrides./image.subscription.reliability:=best_effort",
            "-pqos_overrides./chosen/mask.publisher.reliability:=best_effort",
            "-pqos_overrides./chosen/mask.publisher.depth:=1",
            "-pqos_overrides./chosen/map.publisher.durability:=volatile",
            "-pqos_overrides./chosen/masks.publisher.depth:=1",
        )
        assert "without effect: qos_overrides./chosen/masks.publisher.depth. Names" in node.log
        wait_until(lambda: client.publishers_of("/chosen/mask"), "the mask")
        (mask,) = client.publishers_of("/chosen/mask")

        def subscriptions():
            found = client.node.get_subscriptions_info_by_topic("/image")
            return [subscription for subscription in found if subscription.node_name == "chosen"]

        wait_until(lambda: subscriptions() and client.publishers_of("/chosen/map"), "the subscription and the map")
        (image,) = subscriptions()
        assert mask.qos_profile.reliability == image.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        (map_,) = client.publishers_of("/chosen/map")
        assert map_.qos_profile.durability.name == "VOLATILE"

    def test_one_that_does_not_exist_says_so(self, client, forks):
        arguments = ("-pqos_overrides./wrong/mask.publisher.reliability:=sometimes",)
        forks.append(faults.node("wrong", *arguments))
        forks[-1].says("sometimes")
        assert client.state("wrong") == "unconfigured" and "Traceback" not in forks[-1].log


def test_a_reliable_reader_with_a_queue_of_one_holds_nobody_up(client, begin):
    client.listen(Image, "/narrow/mask", QoSProfile(depth=1), key="narrow")
    begin("narrow")
    connect(client, "narrow")
    send(client, "narrow", [SECOND * 100 + index for index in range(30)])


def test_a_flood_of_requests(client, begin, forks):
    """Beside a camera: resets, pauses and parameters in bursts."""
    forks.append(faults.camera("/image"))
    node = begin("flooded")
    go_on(client, "flooded")
    reset = client.node.create_client(Trigger, "/flooded/reset")
    pause = client.node.create_client(SetBool, "/flooded/pause")
    assert reset.wait_for_service(10) and pause.wait_for_service(10)
    for _ in range(8):  # a service of ROS keeps ten requests; what comes beyond is lost on its way
        answers = [reset.call_async(Trigger.Request()) for _ in range(4)]
        answers += [pause.call_async(SetBool.Request(data=index % 2 == 0)) for index in range(4)]
        assert client.set_parameter("motion.threshold", 0.25, "flooded").successful
        wait_until(lambda a=answers: all(answer.done() for answer in a), "every answer", 20)
        assert all(answer.result().success for answer in answers)
    go_on(client, "flooded")
    assert "Traceback" not in node.log
