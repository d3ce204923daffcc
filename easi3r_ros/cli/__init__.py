"""The `easi3r` command: reads options, calls the library, prints. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from easi3r_ros.libraries import MissingLibrary, needed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line on `arguments` (None: those of the process); ends with SystemExit."""
    try:
        with needed("typer"):
            from easi3r_ros.cli.app import main as run
    except MissingLibrary as error:  # typer; who looks for what is missing must get an answer all the same
        if list(sys.argv[1:] if arguments is None else arguments) == ["doctor"]:
            from easi3r_ros.cli.doctor import doctor

            doctor()
            sys.exit(0)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    run(arguments)
