"""Progress bars on stderr."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from easi3r_ros.libraries import needed


class CommandError(RuntimeError):
    """A command cannot run here; the message says what to do."""


def require_ros(command: str) -> None:
    """Raises CommandError where rclpy cannot be found. command: as it is typed, such as "easi3r play"."""
    if importlib.util.find_spec("rclpy") is None:
        raise CommandError(
            f"'{command}' needs ROS 2: source it, or run scripts/setup and '. scripts/env.sh'. "
            f"'easi3r doctor' shows what is there"
        )


if TYPE_CHECKING:
    from easi3r_ros.core.types import FrameResult


@contextmanager
def frame_progress(total: int | None) -> Iterator[Callable[[FrameResult], None]]:
    """A bar over `total` frames (None: not known), advanced by each call with a result. Raises MissingLibrary."""
    with needed("rich"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    columns = ("frames", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def advance(result: FrameResult) -> None:
            text = f"{result.state.value}, moving {100 * result.dynamic_fraction:.1f} %"
            bar.update(task, advance=1, description=text)

        yield advance


@contextmanager
def render_progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar over the `total` frames of a clip that is rendered before it plays, so that it plays in time."""
    with needed("rich"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    columns = ("rendering", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar per file, set by calls with (file name, bytes so far, bytes in all if known). Raises MissingLibrary."""
    with needed("rich"):
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as SpeedColumn
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, int] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=done, total=total)

        yield show
