"""Errors that concern the command line alone."""

from __future__ import annotations

import importlib.util


class CommandError(RuntimeError):
    """A command cannot run here; the message says what to do."""


def require_ros(command: str) -> None:
    """Raises CommandError where rclpy or this package's messages cannot be found."""
    if importlib.util.find_spec("rclpy") is None:
        raise CommandError(
            f"'easi3r {command}' needs ROS 2: source it, or run scripts/setup and '. scripts/env.sh'. "
            f"'easi3r doctor' shows what is there"
        )
