"""`easi3r-lab bench transport`: what becomes of live images on their way to the node, for docs/inputs.md."""

from __future__ import annotations

from typing import Annotated

import typer


def transport(
    seconds: Annotated[float, typer.Option(min=1.0, help="Of images, per case.")] = 10.0,
    sizes: Annotated[str, typer.Option(help="Of 480p, 720p, 1080p.")] = "480p,720p,1080p",
    rates: Annotated[str, typer.Option(help="Images per second.")] = "10,30",
    publishers: Annotated[str, typer.Option(help="What the camera offers.")] = "best_effort,reliable",
    loads: Annotated[str, typer.Option(help="busy: every core has another process.")] = "idle,busy",
    profile: Annotated[
        bool, typer.Option(help="Both processes with config/fastdds.xml; without: Fast DDS as it comes.")
    ] = True,
    domain: Annotated[int, typer.Option(min=0, max=101, help="ROS_DOMAIN_ID to use.")] = 77,
) -> None:
    """Count live raw images: received, processed, dropped by the worker, lost by the middleware. 20 s a case."""
    from easi3r_ros.cli.console import require_ros

    require_ros("easi3r-lab bench transport")
    from easi3r_lab.demo.transport import SIZES, cases, measure

    chosen = sizes.split(",")
    if unknown := [name for name in chosen if name not in SIZES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose of {', '.join(SIZES)}", param_hint="--sizes")
    wanted = cases(
        chosen,
        [float(rate) for rate in rates.split(",")],
        [name == "reliable" for name in publishers.split(",")],
        [name == "busy" for name in loads.split(",")],
    )
    typer.echo("| images | Hz (reached) | camera | machine | sent | received | processed | dropped | lost |")
    typer.echo("|---|---|---|---|---|---|---|---|---|")
    for case in wanted:
        got = measure(case, seconds, domain, profile)
        width, height = SIZES[case.size]
        camera, machine = "reliable" if case.reliable else "best effort", "busy" if case.busy else "idle"
        lost = "?" if got.lost is None else got.lost
        typer.echo(
            f"| {width} x {height} | {case.rate:g} ({got.rate:.1f}) | {camera} | {machine} | {got.sent} | "
            f"{got.received} | {got.processed} | {got.dropped} | {lost} |"
        )
