"""`easi3r bench`: measurements whose tables are kept in docs/."""

from __future__ import annotations

from pathlib import Path
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
    golden: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also the alignments that a golden_align file records.")
    ] = None,
    twins: Annotated[int, typer.Option(min=0, help="Other scenes on which the batch solver meets Adam.")] = 2,
    streams: Annotated[bool, typer.Option(help="The incremental alignment.")] = True,
    frames: Annotated[int, typer.Option(min=250, help="Length of the long walk.")] = 1000,
    difficult: Annotated[bool, typer.Option(help="Also movers without masks, rotation, standing still, noise.")] = True,
) -> None:
    """The alignment on simulated pairs: as a batch against the published optimiser, and in streams. Takes minutes."""
    import torch

    from easi3r_lab.cli import alignment_tables

    torch.set_num_threads(1)  # as the node runs it beside the classical backbone
    if golden is not None:
        alignment_tables.print_recorded(golden)
    if twins:
        alignment_tables.print_twins(twins)
    if streams:
        _print_streams(frames, difficult)


def _print_streams(frames: int, difficult: bool) -> None:
    """A long walk, and difficult streams."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from easi3r_lab.eval.alignment_stream import robustness
    from easi3r_lab.eval.alignment_walk import long_walk

    walk = long_walk(frames)
    table = Table(box=box.SIMPLE)
    table.add_column("stream", no_wrap=True)
    for heading in ("ATE %", "RPE deg", "lost", "recovered", "weak", "ms", "finite"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in [walk.stream, *(robustness() if difficult else [])]:
        table.add_row(
            row.name,
            f"{row.ate_percent:.3f}",
            f"{row.rpe_degrees:.3f}",
            str(row.lost),
            str(row.recovered),
            str(row.degraded),
            f"{row.milliseconds:.1f}",
            "yes" if row.finite else "NO",
        )
    Console(width=100).print(table)
    typer.echo(
        "ATE: share of the path. recovered: placed right after a lost frame. ms: CPU time per frame.\n"
        f"{walk.stream.name}: {walk.injected} frames were made unusable; {walk.late_ms:.1f} ms at its end, "
        f"{walk.early_ms:.1f} ms at frames 50-150 ({walk.late_ms / walk.early_ms:.2f} x); memory grew by "
        f"{walk.memory_growth_mb:.1f} MB\n"
        f"ATE of frames that are not lost: {walk.ate_percent:.3f} %; of the same pairs all at once: "
        f"{walk.published.ate_percent:.3f} % (published objective, {walk.published.seconds:.0f} s), "
        f"{walk.globally.ate_percent:.3f} % (run --global, {walk.globally.seconds:.0f} s)"
    )
