"""`easi3r play`: a recording over DDS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def play(
    source: Annotated[
        Path,
        typer.Argument(metavar="BAG", help="A rosbag2 (folder, .mcap, .db3), video, image folder, synthetic:PRESET."),
    ],
    rate: Annotated[float, typer.Option(min=0.001, help="Recorded seconds per second.")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start again at the end, with the same stamps.")] = False,
    clock: Annotated[bool, typer.Option("--clock", help="Publish /clock, for nodes with use_sim_time.")] = False,
    topics: Annotated[list[str] | None, typer.Option("--topic", help="Play only this topic of a bag.")] = None,
    remap: Annotated[
        list[str] | None, typer.Option(metavar="FROM:=TO", help="Publish a topic under a new name.")
    ] = None,
    reliable: Annotated[
        bool, typer.Option("--reliable/--best-effort", help="Reliable fits every subscriber; cameras are best effort.")
    ] = True,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for a subscriber; 0: start at once.")] = 0.0,
    fps: Annotated[float | None, typer.Option(min=0.01, help="Frames per second of an image folder or video.")] = None,
    camera_info: Annotated[Path | None, typer.Option(help="Calibration YAML for a video or image folder.")] = None,
) -> None:
    """Publish a bag over DDS with its timing and stamps; or a video or image folder, as `image` with stamps of now."""
    from easi3r_ros.cli.console import require_ros
    from easi3r_ros.io.playback import open_playback

    remappings = _remappings(remap or [])
    if str(source).startswith("synthetic:"):
        typer.echo("rendering the clip first, so that it plays in time ...", err=True)
    with open_playback(source, topics or [], fps, camera_info) as messages:
        require_ros("easi3r play")
        from easi3r_ros.ros.player import PlayOptions
        from easi3r_ros.ros.player import play as publish

        options = PlayOptions(rate, loop, clock, reliable, wait, remappings)
        names = ", ".join(f"{options.remap.get(topic, topic)} ({kind})" for topic, kind in messages.topics.items())
        typer.echo(f"publishing {names}", err=True)
        report = publish(messages, messages.topics, options, messages.latched)
    typer.echo(
        "\n".join(f"{count} messages on {topic}" for topic, count in report.messages.items())
        + f"\n{report.seconds:.2f} s, at most {1e3 * report.latest:.0f} ms late"
    )
    if not report.acknowledged:
        typer.echo("warning: a subscriber has not confirmed all messages; it may be too slow or hang", err=True)


def _remappings(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        old, separator, new = text.partition(":=")
        if not (old and separator and new):
            raise typer.BadParameter(f"'{text}' must be FROM:=TO", param_hint="--remap")
        pairs[old] = new
    return pairs
