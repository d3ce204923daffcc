"""What commands check in the same way: numbers that come in, and damage that ends in the exit status."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from easi3r_ros.io.sources import Losses

MANY = 2**31 - 1  # more frames than any recording has
DAMAGED = 1  # exit status: the work is done, but not all of the input could be used


def finite(value: float | None) -> float | None:
    """For options: refuses inf and nan, which no lower limit does."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to calculate with")
    return value


def exit_for(losses: Losses, source: Path) -> None:
    """End with status 1, and say so, if parts of the input are damaged."""
    if losses:
        typer.echo(f"warning: '{source}' is damaged: {losses}", err=True)
        raise typer.Exit(DAMAGED)
