"""SIGTERM and SIGINT in every lifecycle state, with whatever is under way: status 0 within 2 s."""

import signal
import time

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

import helpers_faults as faults  # noqa: E402
from helpers_ros import Client, rgb_image, wait_until  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
UP = (CONFIGURE, ACTIVATE)


@pytest.fixture(scope="module")
def client():
    client = Client("shutdown_tester")
    yield client
    client.close()


@pytest.fixture
def start(client):
    """start(name, transitions): a node after these transitions; its third image takes for ever."""
    forks = []

    def start(name, *transitions):
        forks.append(faults.node(name, "-pautostart:=false", pipeline="Stuck"))
        for transition in transitions:
            assert client.change_state(transition, name)
        return forks[-1]

    yield start
    for fork in forks:
        fork.close()


def occupy(client, fork):
    """An image is in hand from now on."""
    for index in range(200):
        client.send(rgb_image(index), "/image")
        if "pushing" in fork.log:
            return
        time.sleep(0.05)
    raise AssertionError(f"no image came through:\n{fork.log}")


@pytest.mark.parametrize(
    ("transitions", "state"),
    [
        ((), "unconfigured"),
        ((CONFIGURE,), "inactive"),
        ((*UP, DEACTIVATE), "inactive"),
        ((CONFIGURE, CLEANUP), "unconfigured"),
        ((Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,), "finalized"),
        ((*UP, Transition.TRANSITION_ACTIVE_SHUTDOWN), "finalized"),
    ],
)
def test_in_a_state(client, start, transitions, state):
    name = f"state_{'_'.join(map(str, transitions))}"
    fork = start(name, *transitions)
    assert client.state(name) == state
    fork.ends_well(signal.SIGTERM if len(transitions) % 2 else signal.SIGINT)


def test_while_paused(client, start):
    fork = start("paused", *UP)
    assert client.call(SetBool, "/paused/pause", SetBool.Request(data=True)).success
    client.send(rgb_image(1), "/image")
    fork.ends_well()


def test_while_paused_with_an_image_in_hand_and_a_reset_that_waits(client, start):
    fork = start("held", *UP)
    occupy(client, fork)
    assert client.call(SetBool, "/held/pause", SetBool.Request(data=True)).success
    client.node.create_client(Trigger, "/held/reset").call_async(Trigger.Request())
    fork.ends_well()


@pytest.mark.parametrize("transition", [DEACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN])
def test_while_a_transition_waits_for_the_image_in_hand(client, start, transition):
    name = f"going_{transition}"
    fork = start(name, *UP)
    occupy(client, fork)
    asking = client.node.create_client(ChangeState, f"/{name}/change_state")
    assert asking.wait_for_service(5)
    asking.call_async(ChangeState.Request(transition=Transition(id=transition)))
    wait_until(lambda: client.state(name) not in ("active",), "the transition")
    fork.ends_well()
