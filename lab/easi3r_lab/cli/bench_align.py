"""`easi3r-lab bench align`: the alignment, as a batch and in streams; its tables are kept in docs/accuracy.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from easi3r_lab.eval.alignment_bench import CurveRow, SolverRow

CURVE_LEGEND = (
    "Relative deviation of our Adam's objective from the recorded one, before each of its steps. Rounding differences "
    "grow with the steps and shrink again with the learning rate; the spread is that of repeated published runs at the "
    "last step."
)
SOLVER_LEGEND = (
    "Solver / Adam (recorded: the published result; other scenes: our own 300 steps), after Sim(3) alignment for the "
    "errors. Speed: CPU time of our own Adam's steps / that of the solver from the pairs alone, one thread."
)

app = typer.Typer(
    help="Measure parts of the pipeline; the tables of docs/accuracy.md come from here.", no_args_is_help=True
)


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

    torch.set_num_threads(1)  # as the node runs it beside the classical backbone
    if golden is not None:
        _print_recorded(golden)
    if twins:
        _print_twins(twins)
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


def _print_recorded(path: Path) -> None:
    """Adam and the solver on the alignments that a golden_align file records.

    Raises AlignmentFileError if it is none.
    """
    from easi3r_lab.eval.alignment_bench import CurveRow, golden_rows
    from easi3r_lab.eval.recorded_alignments import read_variants

    rows = _reported(golden_rows(read_variants(path)))
    _print_curves([row for row in rows if isinstance(row, CurveRow)])
    _print_solver("recorded alignment", [row for row in rows if not isinstance(row, CurveRow)])


def _print_twins(count: int) -> None:
    """The solver against Adam on `count` other scenes."""
    from easi3r_lab.eval.alignment_bench import twin_rows
    from easi3r_lab.eval.alignment_twins import box_room

    _print_solver("other scene", _reported(twin_rows(box_room(seed) for seed in range(1, count + 1))))


def _reported(rows: Iterable[CurveRow | SolverRow]) -> list:
    """All rows; each is named on stderr when it is done, because they take their time."""
    done = []
    for row in rows:
        typer.echo(f"{row.name} ...", err=True)
        done.append(row)
    return done


def _print_curves(rows: Sequence[CurveRow]) -> None:
    from easi3r_lab.eval.alignment_bench import EARLY

    headings = ("recorded optimisation", f"first {EARLY} steps", "median", "largest", "last step", "recorded spread")
    _print(
        headings,
        [
            (
                row.name,
                *(f"{value:.1e}" for value in (row.early, row.median, row.largest, row.last, row.recorded_spread)),
            )
            for row in rows
        ],
        CURVE_LEGEND,
    )


def _print_solver(heading: str, rows: Sequence[SolverRow]) -> None:
    headings = (heading, "objective", "ATE", "RPE trans", "RPE rot", "speed", "ms", "passes")
    cells = [
        (
            row.name,
            "-" if math.isnan(row.objective) else f"{row.objective:.5f}",
            *(f"{value:.3f}" for value in (row.ate, row.rpe_translation, row.rpe_rotation)),
            f"{row.speed:.0f} x",
            f"{row.solve_ms:.0f}",
            str(row.passes),
        )
        for row in rows
    ]
    _print(headings, cells, SOLVER_LEGEND)


def _print(headings: Sequence[str], rows: Iterable[Sequence[str]], legend: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.MARKDOWN)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    typer.echo(legend + "\n")
