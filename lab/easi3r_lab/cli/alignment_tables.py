"""Tables of the batch alignment for `easi3r bench align`, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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


def print_recorded(path: Path) -> None:
    """Adam and the solver on the alignments that a golden_align file records.

    Raises AlignmentFileError if it is none.
    """
    from easi3r_lab.eval.alignment_bench import CurveRow, golden_rows
    from easi3r_lab.eval.alignment_golden import read_variants

    rows = _reported(golden_rows(read_variants(path)))
    _print_curves([row for row in rows if isinstance(row, CurveRow)])
    _print_solver("recorded alignment", [row for row in rows if not isinstance(row, CurveRow)])


def print_twins(count: int) -> None:
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
