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

from easi3r_ros import __version__
from easi3r_ros.cli import bench, doctor, play, run, weights
from easi3r_ros.core.config import ConfigError
from easi3r_ros.libraries import explained

USER_ERROR = 2
INTERRUPTED = 130  # as shells report an interrupt


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt, because typer ends the process at one without a word."""


@dataclass
class Options:
    """Of all commands."""

    debug: bool = False


def new_app(name: str, words: str) -> typer.Typer:
    """A command line without commands yet, which has --debug and --version, for `run_app`. words: its help."""
    made = typer.Typer(
        name=name,
        help=words,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(common)
    return made


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and more log.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    context.obj.debug = debug
    if not debug:  # what FFmpeg mutters about a broken file, our own error says in words
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s")


def run_app(
    app: typer.Typer, arguments: Sequence[str] | None = None, packages: Sequence[str] = ("easi3r_ros",)
) -> None:
    """Run a command line of `new_app` on `arguments` (None: those of the process); ends with SystemExit.

    packages: whose errors are written for people, so that their message alone is printed.
    """
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
        _complain(_words(error, packages, app.info.name))
        sys.exit(USER_ERROR)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _words(error: Exception, packages: Sequence[str], command: str) -> str:
    """The message, if it was written for a person; else also what kind of error it is."""
    if isinstance(error, ImportError) and (words := explained(error)):
        return words
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    written_for_a_person = isinstance(error, ConfigError) or type(error).__module__.split(".")[0] in packages
    if written_for_a_person and str(error):
        return str(error)
    return f"{type(error).__name__}: {error} (unexpected: '{command} --debug COMMAND ...' shows where)"


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)


app = new_app(
    "easi3r", "Dynamic masks, camera poses and point clouds from a moving camera: Easi3R without or with ROS 2."
)
app.command()(run.run)
app.command()(play.play)
app.add_typer(weights.app, name="weights")
app.command()(bench.bench)
app.command()(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `easi3r` command; ends with SystemExit."""
    run_app(app, arguments)
