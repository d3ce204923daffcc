"""What rclpy (Humble to Lyrical) has no public way for, behind guards: without it the node works, but less well."""

from __future__ import annotations

from collections.abc import Collection

from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter


def given_parameters(node: Node) -> Collection[str] | None:
    """Names of all parameters given a value at start, declared or not; None: not known."""
    return getattr(node, "_parameter_overrides", None)


def give_as_float(node: Node, name: str) -> None:
    """A whole number given at start for a parameter that is none: `threshold: 1` means 1.0, as in every other file."""
    given = given_parameters(node)
    if isinstance(given, dict) and name in given and given[name].type_ == Parameter.Type.INTEGER:
        given[name] = Parameter(name, Parameter.Type.DOUBLE, float(given[name].value))


def release_state_machine(node: LifecycleNode) -> None:
    """Before `destroy_node`. It keeps the node in the graph of all others, until they miss its signs of life.

    Without this, they see an ended node for some seconds more.
    """
    machine = getattr(node, "_state_machine", None)
    release = getattr(machine, "destroy_when_not_in_use", None)
    if release is not None:
        release()
