"""`easi3r verify`: our numbers against recorded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Golden files (.npz).")],
) -> None:
    """Recompute what golden files record, and compare. Exit status 1: a quantity is off; 2: nothing to compare."""
    from rich.console import Console
    from rich.table import Table

    from easi3r_lab.eval.golden import GoldenError, verify_file

    console, failed, compared = Console(), 0, 0
    for path in files:
        checks = verify_file(path, lambda text: typer.echo(text, err=True))
        if not checks:
            continue
        table = Table("quantity", "max error", "tolerance", "pass", title=str(path), title_justify="left")
        for check in checks:
            passed = "[green]yes[/]" if check.passed else "[bold red]NO[/]"
            table.add_row(check.quantity, f"{check.max_error:.2e}", f"{check.tolerance:.0e}", passed)
        console.print(table)
        compared += len(checks)
        failed += sum(not check.passed for check in checks)
    if not compared:
        raise GoldenError("nothing was compared: none of the files holds what can be recomputed")
    typer.echo(f"{compared - failed} of {compared} quantities within tolerance")
    if failed:
        raise typer.Exit(1)
