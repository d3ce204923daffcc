"""`easi3r-lab bench after-network | fast-path | long-stream | network`: the engine (docs/performance.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def after_network(
    against: Annotated[Path, typer.Option(metavar="FOLDER", help="Checkout of the commit to compare with.")],
    cues: Annotated[str, typer.Option(help="Separated by commas.")] = "attention,fused",
    frames: Annotated[int, typer.Option(min=1, help="That count, in each round.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is run, in turn.")] = 3,
) -> None:
    """What a frame costs after the network at 512 x 288, 5 partners, both passes, beside another commit."""
    import tempfile

    from easi3r_lab.eval.after_network import HERE, compare, record
    from easi3r_ros.core.config import ConfigError

    if not (against / "easi3r_ros" / "core" / "pipeline.py").is_file():
        raise ConfigError(f"--against '{against}' is no checkout of easi3r_ros: git worktree add {against} d42ced3")
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "recording.npz"
        typer.echo("rendering the clip", err=True)
        record(recording, frames)
        for cue in cues.split(","):
            before, now = compare(
                recording, (against.resolve(), HERE), cue, frames, rounds, lambda line: typer.echo(line, err=True)
            )
            typer.echo(
                f"{cue}: {before.wall_ms:.0f} ms -> {now.wall_ms:.0f} ms per frame, "
                f"ratio {now.wall_ms / before.wall_ms:.2f}; "
                f"CPU time {before.cpu_ms:.0f} -> {now.cpu_ms:.0f} ms, ratio {now.cpu_ms / before.cpu_ms:.2f}; "
                f"mask IoU {before.iou:.3f} -> {now.iou:.3f}"
            )
            for name, cost in (("before", before), ("now", now)):
                stages = ", ".join(f"{stage} {value:.1f}" for stage, value in cost.stage_ms.items())
                typer.echo(f"  {name}: {stages} (encode, decode and decode_masked are the stand-in's own)")


def fast_path(
    checkpoint: Annotated[Path | None, typer.Option(help="Of a network; none: the laboratory's tiny one.")] = None,
    presets: Annotated[str, typer.Option(help="Rendered clips, separated by commas.")] = "tabletop,walkers,traffic",
    frames: Annotated[int, typer.Option(min=8)] = 30,
) -> None:
    """Masks of the fast ways beside those that they stand for: stream and paper, one pass and two."""
    from easi3r_lab.eval.fast_path import agreement
    from easi3r_lab.synthetic import render_clip
    from easi3r_lab.tiny import WEIGHTS
    from easi3r_ros.core.backbone import build_backbone
    from easi3r_ros.core.config import BackboneConfig

    network = build_backbone(BackboneConfig(checkpoint=str(checkpoint or WEIGHTS), device="cpu"))
    classical = build_backbone(BackboneConfig())
    ways = {
        "attention, stream / paper": (network, {"motion.cue": "attention"}, {"motion.mode": "paper"}),
        "fused, stream / paper": (network, {"motion.cue": "fused"}, {"motion.mode": "paper"}),
        "attention, 1 pass / 2": (network, {"motion.cue": "attention"}, {"motion.passes": 1}),
        "fused, 1 pass / 2": (network, {"motion.cue": "fused"}, {"motion.passes": 1}),
        "classical, 1 pass / 2": (classical, {}, {"motion.passes": 1}),
    }
    for preset in presets.split(","):
        clip = render_clip(preset, seed=101, frames=frames, rate=15.0)
        for name, (backbone, usual, other) in ways.items():
            first, second = (usual | other, usual) if "pass" in name else (usual, usual | other)
            found = agreement(clip, lambda backbone=backbone: backbone, first, second)
            typer.echo(f"{preset}: {name}: IoU {found.iou:.3f}; with the truth {found.first:.3f} / {found.second:.3f}")


def long_stream(
    frames: Annotated[int, typer.Option(min=80)] = 2000,
    window: Annotated[int, typer.Option(min=2)] = 10,
    cue: Annotated[str, typer.Option()] = "fused",
) -> None:
    """A long stream through a small network: what is alive, and memory."""
    from easi3r_lab.eval.long_stream import run

    result = run(frames, cue, window, lambda line: typer.echo(line, err=True))
    typer.echo(
        f"{frames} frames, window {window}, {cue}: nothing alive that is more than {result.oldest} frames old; "
        f"memory grew by {result.growth_mb:.1f} MB from frame {frames // 4} on, tensors from "
        f"{result.tensors_mb[1]:.2f} to {result.tensors_mb[-1]:.2f} MB"
    )


def network(
    size: Annotated[str, typer.Option(help="full or tiny.")] = "full",
    resolution: Annotated[str, typer.Option(metavar="WxH")] = "512x288",
    rounds: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """The network's part of a frame on a CPU beside the plain way, with 5 partners and both passes."""
    from easi3r_lab.eval.network_part import measure
    from easi3r_ros.cli.bench import parsed_resolution
    from easi3r_ros.core.bench import BenchConfig

    config = BenchConfig(size=size, resolution=parsed_resolution(resolution))  # says what cannot be
    part = measure(config.size, config.resolution, rounds)
    fast, plain = part.frame(partners=5)
    typer.echo(
        f"{size}, {resolution}: CPU seconds: image {part.encode:.2f}, pair {part.decode:.2f}, "
        f"its heads {part.heads:.2f}, pair in the plain way {part.plain_decode:.2f}; "
        f"a frame {fast:.1f} / plain {plain:.1f} = {plain / fast:.1f} times faster; "
        f"largest relative difference {part.difference:.1e}"
    )
