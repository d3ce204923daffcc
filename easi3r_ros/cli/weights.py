"""`easi3r weights`: which checkpoints there are, and getting them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Checkpoints of networks: list (the default), get, where, generate.")


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """Known checkpoints: licence, size, where from, checksum, and whether they are on this machine."""
    from easi3r_ros.io import hub as weights

    for checkpoint in weights.CHECKPOINTS:
        stored = f"stored in {weights.folder(checkpoint)}" if weights.is_stored(checkpoint) else "not on this machine"
        typer.echo(f"{checkpoint.name}: {checkpoint.title}, {checkpoint.gigabytes:.2f} GB, {stored}")
        typer.echo(f"    from      {checkpoint.page}")
        typer.echo(f"    licence   {checkpoint.licence}")
        for name, digest in weights.known_sums(checkpoint).items():
            typer.echo(f"    sha256    {digest}  {name}")
        if not weights.known_sums(checkpoint):
            typer.echo(f"    sha256    {weights.FIRST_USE}")
    typer.echo("\nget one with: easi3r weights get NAME")


@app.command()
def get(name: Annotated[str, typer.Argument(metavar="NAME", help="One of 'easi3r weights list'.")]) -> None:
    """Download a checkpoint (resuming an earlier attempt), or check the one that is there."""
    from easi3r_ros.cli.console import download_progress
    from easi3r_ros.io import hub as weights

    checkpoint = weights.find(name)
    typer.echo(f"{checkpoint.title}, from {checkpoint.page}\nlicence: {checkpoint.licence}")
    with download_progress() as progress:
        obtained = weights.get(checkpoint, progress)
    for item in obtained:
        against = f"checked against the {item.checked_against}" if item.checked_against else weights.FIRST_USE
        typer.echo(f"{item.path}\n    sha256 {item.sha256}, {against}")
    typer.echo(f"use it with: easi3r run INPUT --out DIR --checkpoint {name}")


@app.command()
def where() -> None:
    """The folder that checkpoints are kept in."""
    from easi3r_ros.io import hub as weights

    typer.echo(weights.home() / "weights")


@app.command()
def generate(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A name of 'weights list', 'small', or a JSON file.")],
    out: Annotated[Path, typer.Option(help="File to write (.pth).")],
    salt: Annotated[str, typer.Option(help="Another text gives other weights.")] = "",
) -> None:
    """Write a checkpoint with weights made from their names: meaningless, for tests and measurements."""
    from easi3r_ros.core.dust3r.generated import write_generated_checkpoint
    from easi3r_ros.io import hub as weights

    if out.exists():
        raise weights.WeightsError(f"'{out}' exists already: name another file")
    write_generated_checkpoint(weights.network_named(config), out, salt)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.0f} MB")
