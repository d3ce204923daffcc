"""`easi3r demo`: the node on a rendered clip with ground truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and numbers.")] = Path("demo_out"),
) -> None:
    """Play a rendered clip into the real node over DDS, compare with the truth, and print one line of JSON."""
    from easi3r_ros.cli.console import require_ros

    require_ros("demo")
    from easi3r_lab.demo import run_demo

    print(json.dumps(run_demo(out)))
