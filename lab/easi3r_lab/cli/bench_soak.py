"""`easi3r-lab bench soak`: the node for a long time, watched; docs/reliability.md has what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def soak(
    frames: Annotated[int, typer.Option(min=1, help="Images to send.")] = 20_000,
    minutes: Annotated[float, typer.Option(min=0, help="End earlier than that, after so long.")] = 60.0,
    every: Annotated[int, typer.Option(min=1, help="Images between two looks at the node's memory.")] = 100,
    with_map: Annotated[bool, typer.Option("--map", help="Ask for ~/map too, which grows until it is full.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the node's log.")] = Path("soak_out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one line of JSON.")] = False,
) -> None:
    """Play a rendered clip forth and back into the real node in bag mode: is memory flat, is every image counted?"""
    from easi3r_ros.cli.console import require_ros

    require_ros("easi3r-lab bench soak")
    from easi3r_lab.demo import run_soak

    found = run_soak(out, frames, minutes, every, with_map=with_map)
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):32s} {value}")
