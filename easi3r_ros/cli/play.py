"""`easi3r play`: a recording over DDS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from easi3r_ros.cli.checks import exit_for, finite


def play(
    source: Annotated[
        Path,
        typer.Argument(metavar="BAG", help="A rosbag2 (folder, .mcap, .db3), video, image folder, synthetic:PRESET."),
    ],
    rate: Annotated[float, typer.Option(min=0.001, callback=finite, help="Recorded seconds per second.")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start again at the end, with the same stamps.")] = False,
    clock: Annotated[bool, typer.Option("--clock", help="Publish /clock, for nodes with use_sim_time.")] = False,
    topics: Annotated[list[str] | None, typer.Option("--topic", help="Play only this topic of a bag.")] = None,
    remap: Annotated[
        list[str] | None, typer.Option(metavar="FROM:=TO", help="Publish a topic under a new name.")
    ] = None,
    reliable: Annotated[
        bool, typer.Option("--reliable/--best-effort", help="Reliable fits every subscriber; cameras are best effort.")
    ] = True,
    wait: Annotated[
        float, typer.Option(min=0.0, callback=finite, help="Seconds to wait for a subscriber; 0: start at once.")
    ] = 0.0,
    hold: Annotated[
        str,
        typer.Option(metavar="TOPIC", help="Status of a node in bag_mode (/easi3r/status): do not run ahead of it."),
    ] = "",
    fps: Annotated[
        float | None,
        typer.Option(min=0.01, callback=finite, help="Frames per second; default: a video's own times, 30 for images."),
    ] = None,
    camera_info: Annotated[Path | None, typer.Option(help="Calibration YAML for a video or image folder.")] = None,
) -> None:
    """Publish a bag over DDS with its timing and stamps; or a video or image folder, as `image` with stamps of now.

    Where an image goes by --remap, its camera_info and image/compressed go too, unless they are remapped themselves.
    Exit status 1: played, but parts of a video or image folder are damaged and were left out.
    """
    from easi3r_ros.cli.console import render_progress, require_ros
    from easi3r_ros.io.playback import open_playback

    remappings = _remappings(remap or [])
    with open_playback(source, topics or [], fps, camera_info, render_progress) as messages:
        require_ros("easi3r play")
        from easi3r_ros.messages.schedule import destinations
        from easi3r_ros.ros.player import PlayOptions
        from easi3r_ros.ros.player import play as publish

        options = PlayOptions(rate, loop, clock, reliable, wait, hold, remappings)
        places = destinations(messages.topics, remappings)
        names = ", ".join(f"{place} ({kind})" for topic, kind in messages.topics.items() for place in places[topic])
        typer.echo(f"publishing {names}", err=True)
        report = publish(messages, messages.topics, options, messages.latched)
    typer.echo(
        "\n".join(f"{count} messages on {topic}" for topic, count in report.messages.items())
        + f"\n{report.seconds:.2f} s, at most {1e3 * report.latest:.0f} ms late"
    )
    if not report.acknowledged:
        typer.echo("warning: a subscriber has not confirmed all messages; it may be too slow or hang", err=True)
    exit_for(messages.losses, source)


def _remappings(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        old, separator, new = text.partition(":=")
        if not (old and separator and new):
            raise typer.BadParameter(f"'{text}' must be FROM:=TO", param_hint="--remap")
        pairs[old] = new
    return pairs
