"""`easi3r doctor`: what works on this machine."""

from __future__ import annotations

import typer

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor() -> None:
    """Check Python, torch, CUDA, ROS, video, checkpoints and disk; exit status 1 if something must be repaired."""
    from easi3r_ros.doctor import FAIL, examine

    failed = False
    for finding in examine():
        status = typer.style(f"{finding.status:<4}", fg=COLOURS[finding.status])
        typer.echo(f"{status}  {finding.subject:<12}{finding.detail}")
        if finding.advice:
            typer.echo(f"{'':18}{finding.advice}")
        failed = failed or finding.status == FAIL
    if failed:
        raise typer.Exit(1)
