"""`easi3r bench`: measurements whose tables are kept in docs/."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="Measure parts of the pipeline; the tables of docs/accuracy.md come from here.", no_args_is_help=True
)


@app.callback()
def _commands() -> None:
    """Keeps `align` a command of its own while it is the only one."""


@app.command()
def align(
    frames: Annotated[int, typer.Option(min=310, help="Length of the long walk.")] = 1000,
    difficult: Annotated[bool, typer.Option(help="Also movers without masks, rotation, standing still, noise.")] = True,
) -> None:
    """The incremental alignment on simulated pairs: a long walk, and difficult streams."""
    from collections.abc import Iterable
    from itertools import chain

    import torch
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from easi3r_ros.eval.alignment_stream import StreamRow, long_walk, robustness

    torch.set_num_threads(1)  # as the node runs it beside the classical backbone
    rows: Iterable[StreamRow] = chain([long_walk(frames)], robustness() if difficult else [])
    table = Table(box=box.SIMPLE)
    table.add_column("stream", no_wrap=True)
    for heading in ("ATE %", "RPE deg", "lost", "weak", "ms early", "ms late", "+MB", "finite"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.ate_percent:.2f}",
            f"{row.rpe_degrees:.3f}",
            str(row.lost),
            str(row.degraded),
            f"{row.first_ms:.1f}",
            f"{row.last_ms:.1f}",
            f"{row.memory_growth_mb:.1f}",
            "yes" if row.finite else "NO",
        )
    Console(width=100).print(table)
    typer.echo(
        "ATE: % of the path. ms: CPU time per frame, frames 50-150 and the last 100. +MB: memory since frame 150."
    )
