"""One thread that never waits: how often it wakes up, and what it answers while images and weights take their time."""

import itertools
import threading
import time
from collections import Counter

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from easi3r_ros.msg import WindowStatus
from helpers_node import SPINNER, FakePipeline, RunningNode  # noqa: E402
from helpers_ros import Client, camera_info, rgb_image, session_environment, wait_until  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy import executors  # noqa: E402
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from easi3r_ros.ros import node as node_module
from easi3r_ros.ros import spinning

PATIENCE = 40.0
SOON = 0.5  # seconds within which whoever does not wait answers, on a busy machine
KINDS = ("subscription", "guard_condition", "timer", "client", "service")
RELIABLE = QoSProfile(depth=1000)
NUMBERS = itertools.count()


def work(seconds):
    """As PyTorch does between its operations: with the interpreter's lock, which others must wait for."""
    start = time.thread_time()
    while time.thread_time() - start < seconds:
        pass


class Held:
    """Makes pipelines that take as long as a test wants: to load, and over an image."""

    def __init__(self):
        self.load, self.push = threading.Event(), threading.Event()
        self.loading, self.pushing = threading.Event(), threading.Event()
        self.load.set()
        self.push.set()
        self.slow = 0.0
        self.made = []

    def __call__(self, config):
        self.loading.set()
        assert self.load.wait(PATIENCE)
        held = self

        class Pipeline(FakePipeline):
            def push(self, frame):
                held.pushing.set()
                assert held.push.wait(PATIENCE)
                work(held.slow)
                return super().push(frame)

        self.made.append(Pipeline(config))
        return self.made[-1]

    def release(self):
        self.load.set()
        self.push.set()


@pytest.fixture(scope="module")
def client():
    client = Client("spinning_tester")
    client.listen(Log, "/rosout", QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    client.listen(DiagnosticArray, "/diagnostics")
    client.publisher(Image, "/image", RELIABLE)
    client.publisher(CameraInfo, "/camera_info", RELIABLE)
    yield client
    client.close()


@pytest.fixture
def held():
    return Held()


@pytest.fixture
def run(client, held):
    """run(name, parameters...): the node under a name of its own."""
    running = []

    def run(name, *parameters):
        options = [word for parameter in ("tf_mode:=none", *parameters) for word in ("-p", parameter)]
        running.append(RunningNode("-r", f"__node:={name}", *options, make_pipeline=held))
        client.listen(WindowStatus, f"/{name}/status")
        return running[-1]

    yield run
    held.release()
    for node in running:
        node.close()


def statuses(client, name):
    return client.received[f"/{name}/status"]


def connect(client, name):
    """An image came through."""
    wait_until(lambda: client.state(name) == "active", "the node to be active")
    client.connect(name, ("status",), lambda index: client.send(rgb_image(index), "/image"))


def occupy(client, held, index=1000):
    """The node has an image in hand until `held.push` is set."""
    held.push.clear()
    held.pushing.clear()
    client.send(rgb_image(index), "/image")
    assert held.pushing.wait(PATIENCE)


def answers_soon(ask):
    start = time.monotonic()
    answer = ask()
    assert time.monotonic() - start < SOON
    return answer


def change(client, name, transition):
    asking = client.node.create_client(ChangeState, f"/{name}/change_state")
    assert asking.wait_for_service(PATIENCE)
    return asking.call_async(ChangeState.Request(transition=Transition(id=transition)))


def said(client, text):
    return [log.msg for log in client.received["/rosout"] if text in log.msg]


@pytest.fixture
def waits(monkeypatch):
    """How often the wait of the node's thread returned; ["in vain"]: how often with nothing to do."""
    counts = Counter()

    class WaitSet(executors._rclpy.WaitSet):
        def wait(self, timeout):
            super().wait(timeout)
            if threading.current_thread().name == SPINNER:
                counts["all"] += 1
                counts["in vain"] += not any(self.get_ready_entities(kind) for kind in KINDS)

    class Counted:
        def __getattr__(self, name):
            return WaitSet if name == "WaitSet" else getattr(original, name)

    original = executors._rclpy
    monkeypatch.setattr(executors, "_rclpy", Counted())
    return counts


@pytest.fixture
def slow_start(monkeypatch):
    """Whoever handles a message has to wait for the interpreter's lock first, as beside a worker it often has."""
    begin = MutuallyExclusiveCallbackGroup.beginning_execution
    slow = lambda *args: time.sleep(0.01) or begin(*args)  # noqa: E731
    monkeypatch.setattr(MutuallyExclusiveCallbackGroup, "beginning_execution", slow)


class TestWakeUps:
    """rclpy's MultiThreadedExecutor wakes up thousands of times a second here (see `spinning`)."""

    @pytest.mark.parametrize("bag_mode", [False, True])
    def test_under_load_they_follow_the_messages(self, client, held, run, waits, slow_start, bag_mode):
        name = f"load_{bag_mode}".lower()
        run(name, f"bag_mode:={bag_mode}")
        connect(client, name)
        held.slow = 0.05  # on a free core; 30 images per second are more than it can do
        seconds, rate = 3.0, 30
        sent, before, done = 0, waits.copy(), len(statuses(client, name))
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            client.send(camera_info(), "/camera_info")
            client.send(rgb_image(10**9 + sent), "/image")
            sent += 1
            time.sleep(max(0.0, start + sent / rate - time.monotonic()))
        woken = waits - before
        messages = 2 * sent + 10 * seconds  # beside the images: camera_info, timers, wake-ups of the worker
        assert 10 < woken["all"] < 4 * messages, f"{woken} for {sent} images"
        # Counted apart, because how often a thread can spin in vain depends on how busy the machine is.
        assert woken["in vain"] < 10, f"{woken} for {sent} images"
        processed = len(statuses(client, name)) - done
        assert processed >= 3
        if bag_mode:
            held.slow = 0.0
            wait_until(lambda: len(statuses(client, name)) - done == sent, "a result of every image")

    def test_idle(self, client, run, waits):
        run("idle")
        connect(client, "idle")
        before = waits.copy()
        time.sleep(3)
        woken = waits - before
        assert 3 <= woken["all"] < 60 and woken["in vain"] < 3


class TestBagMode:
    def test_services_answer_while_images_wait(self, client, held, run):
        """Every queue of the node is full, the image subscription is left alone, and nothing else notices."""
        run("full", "bag_mode:=true")
        connect(client, "full")
        occupy(client, held)
        for index in range(30):
            client.send(rgb_image(2000 + index), "/image")
        time.sleep(0.5)
        assert answers_soon(lambda: client.state("full")) == "active"
        assert answers_soon(lambda: client.set_parameter("motion.threshold", 0.3, "full")).successful
        for paused in (True, False):
            answer = answers_soon(lambda p=paused: client.call(SetBool, "/full/pause", SetBool.Request(data=p)))
            assert answer.success
        assert not statuses(client, "full")
        held.push.set()
        wait_until(lambda: len(statuses(client, "full")) == 31, "a result of every image")
        stamps = [status.header.stamp.nanosec for status in statuses(client, "full")]
        assert stamps == [1000, *range(2000, 2030)]
        assert statuses(client, "full")[-1].frames_dropped == 0


class TestReset:
    def test_it_waits_for_the_image_in_hand_alone(self, client, held, run):
        run("waiting")
        connect(client, "waiting")
        reset = client.node.create_client(Trigger, "/waiting/reset")
        assert reset.wait_for_service(PATIENCE)
        occupy(client, held)
        future = reset.call_async(Trigger.Request())
        time.sleep(0.2)
        assert answers_soon(lambda: client.state("waiting")) == "active"
        assert answers_soon(lambda: client.get_parameter("motion.threshold", "waiting")).double_value == 0.5
        before = len(client.received["/diagnostics"])
        wait_until(lambda: len(client.received["/diagnostics"]) >= before + 2, "diagnostics", patience=5)
        assert not future.done()
        resets = held.made[-1].resets
        held.push.set()
        wait_until(future.done, "the answer")
        assert future.result().success and held.made[-1].resets == resets + 1

    def test_it_is_answered_by_a_node_that_stops(self, client, held, run):
        run("stopping")
        connect(client, "stopping")
        reset = client.node.create_client(Trigger, "/stopping/reset")
        assert reset.wait_for_service(PATIENCE)
        occupy(client, held)
        resetting = reset.call_async(Trigger.Request())
        stopping = change(client, "stopping", Transition.TRANSITION_DEACTIVATE)
        time.sleep(0.2)
        assert answers_soon(lambda: client.state("stopping")) == "deactivating"
        held.push.set()
        wait_until(lambda: resetting.done() and stopping.done(), "both answers")
        assert resetting.result().success and stopping.result().success
        answer = client.call(Trigger, "/stopping/reset", Trigger.Request())
        assert not answer.success and answer.message == "the node is not active"


class TestTransitions:
    @pytest.fixture
    def loading(self, client, held, run):
        """(name of a node whose weights load until `held.load` is set, the future answer to that request)."""
        name = f"loading_{next(NUMBERS)}"  # the client remembers services of nodes that are gone
        run(name, "autostart:=false")
        held.load.clear()
        future = change(client, name, Transition.TRANSITION_CONFIGURE)
        assert held.loading.wait(PATIENCE)
        client.state(name), client.get_parameter("motion.threshold", name)  # both have found each other
        return name, future

    def test_everything_answers_while_weights_load(self, client, held, loading):
        name, future = loading
        assert answers_soon(lambda: client.state(name)) == "configuring"
        assert answers_soon(lambda: client.get_parameter("motion.threshold", name)).double_value == 0.5
        assert answers_soon(lambda: client.call(Trigger, f"/{name}/reset", Trigger.Request())).success is False
        client.received["/diagnostics"].clear()
        wait_until(lambda: any("configure is under way" in s for s in states(client, name)), "diagnostics", 5)
        assert not future.done()
        held.load.set()
        wait_until(future.done, "the answer")
        assert future.result().success and client.state(name) == "inactive"

    def test_a_second_one_is_refused_in_words(self, client, held, loading):
        name, future = loading
        # 10 is what rclpy itself sends at the end of a success: the state machine would take it from anybody.
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP, 10):
            assert not answers_soon(lambda t=transition: client.change_state(t, name))
        for transition in ("configure", "cleanup", "10"):
            text = f"lifecycle transition '{transition}' refused: 'configure' is not done yet"
            wait_until(lambda text=text: said(client, text), text)
        assert client.state(name) == "configuring" and not future.done()
        held.load.set()
        wait_until(future.done, "the answer")
        assert future.result().success and client.state(name) == "inactive" and len(held.made) == 1
        assert client.change_state(Transition.TRANSITION_ACTIVATE, name)

    def test_parameters_set_meanwhile(self, client, held, loading):
        """Live ones count, and others are refused: the values that they would replace are in use already."""
        name, future = loading
        assert client.set_parameter("motion.threshold", 0.25, name).successful
        refusal = client.set_parameter("window.size", 5, name)
        assert not refusal.successful and "read when the node is configured" in refusal.reason
        held.load.set()
        wait_until(future.done, "the answer")
        assert held.made[-1].config.motion.threshold == 0.25 and held.made[-1].config.window.size == 10

    def test_a_transition_that_raises_says_why(self, client, run, monkeypatch):
        run("raising", "autostart:=false")
        assert client.change_state(Transition.TRANSITION_CONFIGURE, "raising")
        monkeypatch.setattr(node_module.Stream, "__init__", lambda *_: 1 / 0)
        assert not client.change_state(Transition.TRANSITION_ACTIVATE, "raising")
        wait_until(lambda: said(client, "activate failed: ZeroDivisionError: division by zero"), "the reason")
        assert client.state("raising") == "unconfigured"
        client.received["/diagnostics"].clear()
        wait_until(lambda: any("division by zero" in s for s in states(client, "raising")), "diagnostics", 5)

    def test_an_rclpy_that_hides_its_service(self, client, run, monkeypatch):
        monkeypatch.setattr(node_module, "_service", lambda *_: None)
        run("hidden", "autostart:=false")
        wait_until(lambda: said(client, "this rclpy hides the service change_state"), "what is missing")
        assert client.change_state(Transition.TRANSITION_CONFIGURE, "hidden")
        assert client.state("hidden") == "inactive"


def states(client, name):
    return [s.message for m in client.received["/diagnostics"] for s in m.status if s.name == f"{name}: state"]


class TestParameters:
    @pytest.mark.parametrize("late", [False, True])
    def test_a_live_value_set_during_an_image_survives_a_deactivation(self, client, held, run, late):
        name = f"survivor_{late}".lower()
        run(name)
        connect(client, name)
        occupy(client, held)
        assert client.set_parameter("motion.threshold", 0.125, name).successful
        stopping = change(client, name, Transition.TRANSITION_DEACTIVATE)
        wait_until(lambda: client.state(name) == "deactivating", "the transition")
        if late:
            assert client.set_parameter("motion.threshold", 0.25, name).successful, "even now"
        assert held.made[-1].config.motion.threshold == 0.5, "not under the image in hand"
        held.push.set()
        wait_until(stopping.done, "the end of the transition")
        assert client.change_state(Transition.TRANSITION_ACTIVATE, name)
        statuses(client, name).clear()
        wait_until(lambda: client.send(rgb_image(1), "/image") or time.sleep(0.1) or statuses(client, name), "a result")
        assert held.made[-1].config.motion.threshold == (0.25 if late else 0.125)

    def test_while_inactive(self, client, held, run):
        run("asleep")
        connect(client, "asleep")
        assert client.change_state(Transition.TRANSITION_DEACTIVATE, "asleep")
        assert client.set_parameter("motion.threshold", 0.75, "asleep").successful
        assert held.made[-1].config.motion.threshold == 0.75


def test_the_end_of_the_context_ends_the_spinning():
    session_environment()
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("ended", context=context)
    errors = []
    arguments = (spinning.executor_for(node), lambda: False, errors.append)
    thread = threading.Thread(target=spinning.spin, args=arguments, daemon=True)
    thread.start()
    time.sleep(0.2)
    context.shutdown()
    thread.join(PATIENCE)
    assert not thread.is_alive() and errors == []


def test_what_a_callback_raises_ends_that_callback_alone(client, run):
    node = run("robust", "autostart:=false")
    node.soon(lambda: 1 / 0)
    wait_until(lambda: node.errors, "the error")
    assert isinstance(node.errors[0], ZeroDivisionError)
    assert client.state("robust") == "unconfigured"
