"""The `easi3r` command: reads options, calls the library, prints. Heavy imports happen inside the commands."""

from easi3r_ros.cli.app import main

__all__ = ["main"]
