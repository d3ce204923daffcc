"""What the node does without, on an rclpy that lacks it."""

from types import SimpleNamespace

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

import rclpy  # noqa: E402
from helpers_ros import session_environment  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from easi3r_ros.ros import rclpy_gaps
from easi3r_ros.ros.params import unknown_overrides


@pytest.fixture
def node():
    session_environment()
    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [Parameter("known", value=1), Parameter("typo", value=2), Parameter("qos_overrides./image", value=3)]
    node = rclpy.create_node("gaps", context=context, parameter_overrides=overrides)
    node.declare_parameter("known", 0)
    yield node
    node.destroy_node()
    context.shutdown()


def test_unknown_parameters(node):
    assert set(rclpy_gaps.given_parameters(node)) >= {"known", "typo"}
    assert unknown_overrides(node) == ["typo"]


def test_unknown_parameters_of_an_rclpy_that_does_not_tell(node):
    del node._parameter_overrides
    assert unknown_overrides(node) is None, "and not: there are none"


@pytest.mark.parametrize("node", [SimpleNamespace(), SimpleNamespace(_state_machine=SimpleNamespace())])
def test_an_rclpy_with_another_state_machine(node):
    rclpy_gaps.release_state_machine(node)
