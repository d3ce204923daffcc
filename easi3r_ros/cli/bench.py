"""`easi3r bench`: how fast the pipeline runs here, with generated weights and without any download."""

from __future__ import annotations

from typing import Annotated

import typer


def bench(
    size: Annotated[str, typer.Option(help="full: the published ViT-Large; tiny: a toy for a CPU.")] = "full",
    resolution: Annotated[str, typer.Option(metavar="WxH", help="Of the network image.")] = "512x288",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    cue: Annotated[str, typer.Option(help="attention, geometry or fused.")] = "fused",
    frames: Annotated[int, typer.Option(min=1, help="Frames that count.")] = 50,
    partners: Annotated[int, typer.Option(min=1, help="Earlier frames that a new one is paired with.")] = 5,
    passes: Annotated[int, typer.Option(min=1, max=2, help="2: decode again with what moves masked.")] = 2,
    dtype: Annotated[str, typer.Option(help="Precision of encoder and decoder.")] = "auto",
    heads: Annotated[str, typer.Option(help="Precision of the heads.")] = "auto",
    compiled: Annotated[str, typer.Option("--compile", help="off, or on: the network by torch.compile.")] = "off",
    plain: Annotated[bool, typer.Option("--plain", help="Also the plain way of computing the same.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")] = False,
) -> None:
    """Measure rate, latency, time per stage, arithmetic and memory with a network of generated weights."""
    import json

    from easi3r_ros.core.bench import BenchConfig, measure

    config = BenchConfig(
        size, parsed_resolution(resolution), device, cue, frames, partners, passes, dtype, heads, compiled
    )
    report = measure(config, plain, lambda line: typer.echo(line, err=True))
    typer.echo(json.dumps(report) if as_json else as_text(report))


def parsed_resolution(text: str) -> tuple[int, int]:
    """Raises ConfigError for what is not WxH."""
    from easi3r_ros.core.config import ConfigError

    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(f"--resolution is '{text}', must be width x height in pixels, as 512x288")
    return int(sides[0]), int(sides[1])


def as_text(report: dict) -> str:
    """A report of `core.bench.measure` as a small table, with the plain way beside it where it was measured."""
    columns = [report, report["plain"]] if "plain" in report else [report]
    width, height = report["resolution"]
    lines = [
        f"{report['size']} network, {width}x{height}, {report['cue']}, {report['partners']} partners, "
        f"{report['passes']} passes, {report['device']}, PyTorch {report['torch']}",
        f"{'':24}" + "".join(f"{name:>12}" for name in ("fast", "plain")[: len(columns)]),
    ]
    rows = {
        "frames per second": lambda r: r["fps"],
        "latency p50 ms": lambda r: r["latency_ms"]["p50"],
        "latency p95 ms": lambda r: r["latency_ms"]["p95"],
        "latency p99 ms": lambda r: r["latency_ms"]["p99"],
        "first frame ms": lambda r: r["first_frame_ms"],
        "network ms": lambda r: r["network_ms"],
        "after the network ms": lambda r: r["after_network_ms"],
    }
    stages = {name: None for column in columns for name in column["stage_ms"]}
    rows |= {f"  {stage} ms": lambda r, stage=stage: r["stage_ms"].get(stage) for stage in stages}
    rows |= {
        "TFLOP per frame": lambda r: r["tflop"],
        "share of the floor": lambda r: r["floor_share"],
        "kernels per frame": lambda r: r["kernels"],
        "crossings per frame": lambda r: r["crossings"],
        "peak memory MB": lambda r: r["peak_mb"],
    }
    for name, value in rows.items():
        lines.append(f"{name:24}" + "".join(f"{_number(value(column)):>12}" for column in columns))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
