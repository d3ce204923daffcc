"""`easi3r run`: a recording through the pipeline, results into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from easi3r_ros.cli.checks import MANY, exit_for, finite

if TYPE_CHECKING:
    from easi3r_ros.core.alignment.whole import GlobalAlignment
    from easi3r_ros.core.config import PipelineConfig
    from easi3r_ros.io.recording import Summary


def run(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A rosbag2 (folder, .mcap, .db3), video, image folder, synthetic:PRESET."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    topic: Annotated[str | None, typer.Option(help="Image topic, if the bag has several.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A file, a folder, or a name of 'easi3r weights list'.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ... (default: CUDA where there is one).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with settings; the node's parameter files will do.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, max=MANY, help="Stop after so many frames.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, callback=finite, help="Frames per second; default: a video's own times, 30 for images."),
    ] = None,
    camera_info: Annotated[Path | None, typer.Option(help="Calibration YAML for a video or image folder.")] = None,
    masks: Annotated[bool, typer.Option(help="Masks as PNG.")] = True,
    trajectory: Annotated[bool, typer.Option(help="Camera poses in TUM format.")] = True,
    clouds: Annotated[bool, typer.Option(help="Point clouds as PLY.")] = True,
    video: Annotated[bool, typer.Option(help="Overlay as MP4.")] = True,
    bag: Annotated[bool, typer.Option(help="A rosbag2 with the node's topics.")] = True,
    clouds_every: Annotated[int, typer.Option(min=1, max=MANY, help="Of how many frames one becomes a PLY cloud.")] = 5,
    viewer: Annotated[
        str | None,
        typer.Option(help="rerun: OUT/recording.rrd for the rerun viewer; rerun-live: the viewer itself, too."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Remove first what earlier runs wrote there, nothing else.")] = False,
    globally: Annotated[
        bool,
        typer.Option(
            "--global",
            help="Align all frames at once before anything is written: better poses, depth scaled to them, one focal "
            "length. Reads INPUT twice; masks stay the same; loops are not closed.",
        ),
    ] = False,
) -> None:
    """Process every frame of a recording, in order, and write masks, poses, clouds, an overlay video and a bag.

    Exit status 1: done, but parts of INPUT are damaged, late or of another size and were left out.
    """
    from functools import partial

    from easi3r_ros.cli.console import frame_progress
    from easi3r_ros.core.alignment.whole import PairJournal
    from easi3r_ros.core.backbone import suit_threads
    from easi3r_ros.core.pipeline import Pipeline
    from easi3r_ros.io import open_source
    from easi3r_ros.io.recording import (
        check_input,
        check_outputs,
        open_writers,
        prepare_folder,
        run_globally,
        write_summary,
    )
    from easi3r_ros.io.recording import run as run_pipeline
    from easi3r_ros.mapping.placing import offline_placing
    from easi3r_ros.messages.status import BackboneInfo

    chosen = {"masks": masks, "trajectory": trajectory, "clouds": clouds, "video": video, "bag": bag}
    outputs = [name for name, wanted in chosen.items() if wanted]
    check_outputs(outputs, viewer)
    settings = _config(config, checkpoint, device, assignments or [])
    check_input(source, out)
    with open_source(source, topic=topic, rate=rate, camera_info=camera_info) as frames:
        journal = PairJournal() if globally else None
        pipeline = Pipeline(settings, journal=journal)
        suit_threads(pipeline.backbone)
        placing = offline_placing(settings, getattr(pipeline.backbone, "metric", False))
        backbone = BackboneInfo(pipeline.backbone.name, settings.backbone.checkpoint)
        prepare_folder(out, overwrite)
        _say_backbone(backbone.name, settings)
        writers = partial(open_writers, out, outputs, frames, settings, backbone, clouds_every, viewer)
        progress = partial(frame_progress, min((n for n in (frames.length, max_frames) if n is not None), default=None))
        if journal is not None:
            summary, alignment = run_globally(
                frames, pipeline, journal, writers, out, progress, max_frames, settings.window.late, placing
            )
            _print_alignment(alignment)
        else:
            late = settings.window.late
            with progress() as on_result:
                summary = run_pipeline(frames, pipeline, writers(), max_frames, on_result, late, placing)
        losses = frames.losses
    write_summary(summary, out)
    _print_summary(summary, out)
    exit_for(losses, source)


def _config(path: Path | None, checkpoint: str | None, device: str | None, assignments: list[str]) -> PipelineConfig:
    """Defaults, then the file, then --set, then the options of their own."""
    from easi3r_ros.core.config import PipelineConfig, with_settings
    from easi3r_ros.io.hub import resolve
    from easi3r_ros.io.parameters import parse_assignments, read_parameters

    values: dict[str, Any] = {}
    if path is not None:
        values, of_node = read_parameters(path)
        if of_node:
            typer.echo(f"note: '{path}' also sets {', '.join(of_node)}, which only concern the node", err=True)
    values |= parse_assignments(assignments)
    if checkpoint is not None:
        values["backbone.checkpoint"] = checkpoint
    if device is not None:
        values["backbone.device"] = device
    if values.get("backbone.checkpoint"):
        values["backbone.checkpoint"] = resolve(values["backbone.checkpoint"])
    return with_settings(PipelineConfig(), values)


def _say_backbone(name: str, config: PipelineConfig) -> None:
    if config.backbone.checkpoint:
        typer.echo(f"backbone: {name}, {config.backbone.checkpoint}", err=True)
    else:
        typer.echo(f"backbone: {name}, which needs no checkpoint ('easi3r weights list' shows the networks)", err=True)


def _print_alignment(alignment: GlobalAlignment) -> None:
    typer.echo(
        f"aligned as a whole: median reprojection error {1e3 * alignment.error_before:.2f} -> "
        f"{1e3 * alignment.error:.2f} mrad, half of the cameras moved by more than {alignment.moved:.2g} units"
    )


def _print_summary(summary: Summary, out: Path) -> None:
    unit = "m" if summary.metric else "units"
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items())
    typer.echo(
        f"{summary.frames} frames of {summary.width} x {summary.height} ({states})\n"
        f"camera path {summary.path_length:.3g} {unit}; {100 * summary.dynamic_fraction:.1f} % of the pixels move\n"
        f"pipeline {summary.latency_p50_ms:.0f} ms per frame (p95 {summary.latency_p95_ms:.0f}): "
        f"{summary.frames_per_second:.3g} frames per second\n"
        f"results in {out}"
    )
