"""The `easi3r-lab` command: reads options, calls the library, prints. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from easi3r_lab.cli import bench_align, bench_engine, bench_soak, bench_transport, evaluate
from easi3r_ros.cli.app import new_app, run_app


def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and numbers.")] = Path("demo_out"),
) -> None:
    """Play a rendered clip into the real node over DDS, compare with the truth, and print one line of JSON."""
    from easi3r_ros.cli.console import require_ros

    require_ros("easi3r-lab demo")
    from easi3r_lab.demo import run_demo

    print(json.dumps(run_demo(out)))


def sheet(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="As for 'easi3r run'.")],
    out: Annotated[Path, typer.Option(help="The picture, a PNG.")] = Path("sheet.png"),
    frames: Annotated[int, typer.Option(help="So many of INPUT.", min=2)] = 60,
    rows: Annotated[int, typer.Option(help="Of the picture.", min=1, max=12)] = 3,
    camera_info: Annotated[Path | None, typer.Option(help="Calibration YAML for a video or image folder.")] = None,
) -> None:
    """What the viewer shows as one picture, without a display: image, mask, depth, path and clouds from above."""
    from itertools import islice

    from easi3r_lab.eval.pictures import save
    from easi3r_lab.eval.view_sheet import snapshots, view_sheet
    from easi3r_ros.core.config import PipelineConfig
    from easi3r_ros.core.pipeline import Pipeline
    from easi3r_ros.io import open_source
    from easi3r_ros.mapping.placing import offline_placing

    config = PipelineConfig()
    pipeline = Pipeline(config)
    placing = offline_placing(config, pipeline.backbone.metric)
    with open_source(source, camera_info=camera_info) as opened:
        results = [placing.place(pipeline.push(frame)) for frame in islice(opened, frames)]
    save(view_sheet(snapshots(results, rows, config.clouds), str(source)), out)
    typer.echo(f"wrote {out}")


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

    from easi3r_lab.training.plan import TrainingPlan
    from easi3r_lab.training.trainer import Trainer, export, training_device

    torch.set_num_threads(threads)
    console = Console()
    trainer = Trainer(TrainingPlan(minutes=minutes, seed=seed), out, training_device(device), workers, compiled)
    if trainer.progress.step:
        console.print(f"going on after {trainer.progress.seconds / 60:.1f} minutes, step {trainer.progress.step}")
    trainer.run(lambda row: console.print(_line(row), highlight=False), report)
    console.print(f"wrote {export(trainer.network, out / 'tiny').parent}")


def _line(row: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:g}" for name, value in row.items())


app = new_app(
    "easi3r-lab", "The laboratory of easi3r_ros: rendered worlds, measurements, the demo, and how a network is trained."
)
app.command()(demo)
app.command()(sheet)
app.command()(verify)
app.add_typer(evaluate.app, name="eval")
bench_align.app.command()(bench_soak.soak)
bench_align.app.command()(bench_transport.transport)
bench_align.app.command("after-network")(bench_engine.after_network)
bench_align.app.command("fast-path")(bench_engine.fast_path)
bench_align.app.command("long-stream")(bench_engine.long_stream)
bench_align.app.command("network")(bench_engine.network)
app.add_typer(bench_align.app, name="bench")
app.command()(train)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `easi3r-lab` command; ends with SystemExit."""
    run_app(app, arguments, packages=("easi3r_ros", "easi3r_lab"))
