"""`easi3r train`: train the embedded network on rendered scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    out: Annotated[Path, typer.Option("--out", help="Folder of the training; one that was begun there goes on.")],
    minutes: Annotated[float, typer.Option(help="Time to train, earlier runs included, evaluations not.")] = 120.0,
    device: Annotated[str, typer.Option(help="auto: the first CUDA device if there is one, else cpu.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that render; 0: render on the device itself.", min=0)] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of the training itself.", min=1)] = 2,
    seed: Annotated[int, typer.Option(help="Of the weights and of the scenes.", min=0, max=900)] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="By torch.compile: minutes to start with, then 1.5 times as fast.")
    ] = False,
    report: Annotated[float, typer.Option(help="Seconds between evaluations on held-out pairs.", min=1)] = 180.0,
) -> None:
    """Train `tiny` from nothing on scenes that are rendered as it goes, and write OUT/tiny for backbone.checkpoint.

    It can be stopped at any time: the same command goes on. OUT/log.jsonl holds the curves.
    """
    import torch
    from rich.console import Console

    from easi3r_lab.training.export import export
    from easi3r_lab.training.plan import TrainingPlan
    from easi3r_lab.training.trainer import Trainer, training_device

    torch.set_num_threads(threads)
    console = Console()
    trainer = Trainer(TrainingPlan(minutes=minutes, seed=seed), out, training_device(device), workers, compiled)
    if trainer.progress.step:
        console.print(f"going on after {trainer.progress.seconds / 60:.1f} minutes, step {trainer.progress.step}")
    trainer.run(lambda row: console.print(_line(row), highlight=False), report)
    console.print(f"wrote {export(trainer.network, out / 'tiny').parent}")


def _line(row: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:g}" for name, value in row.items())
