"""The `easi3r-lab` command."""

from easi3r_lab.cli.app import main

__all__ = ["main"]
