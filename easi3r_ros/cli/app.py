"""The commands together, and what becomes of their errors: one line and exit status 2, never a bare traceback."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated

import typer
from easi3r_lab.cli import bench as lab_bench
from easi3r_lab.cli import demo, evaluate, train, verify

from easi3r_ros import __version__
from easi3r_ros.cli import bench, doctor, play, run, weights
from easi3r_ros.core.config import ConfigError

USER_ERROR = 2
INTERRUPTED = 130  # as shells report an interrupt


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt, because typer ends the process at one without a word."""


@dataclass
class Options:
    """Of all commands."""

    debug: bool = False


app = typer.Typer(
    name="easi3r",
    help="Dynamic masks, camera poses and point clouds from a moving camera: Easi3R without or with ROS 2.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.run)
app.command()(play.play)
app.command()(verify.verify)
app.add_typer(weights.app, name="weights")
app.command()(bench.bench)
app.add_typer(lab_bench.app, name="lab-bench")
app.add_typer(evaluate.app, name="eval")
app.command()(demo.demo)
app.command()(train.train)
app.command()(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and more log.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    context.obj.debug = debug
    if not debug:  # what FFmpeg mutters about a broken file, our own error says in words
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", handlers=[handler])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends with SystemExit."""
    options = Options()
    # What is being written must be closed properly, whoever ends us.
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        app(args=arguments, obj=options)
    except Interrupted:
        _complain("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        _complain(_words(error))
        sys.exit(USER_ERROR)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _words(error: Exception) -> str:
    """The message, if it was written for a person; else also what kind of error it is."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    written_for_a_person = isinstance(error, ConfigError) or type(error).__module__.startswith("easi3r_ros.")
    if written_for_a_person and str(error):
        return str(error)
    return f"{type(error).__name__}: {error} (unexpected: 'easi3r --debug COMMAND ...' shows where)"


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
