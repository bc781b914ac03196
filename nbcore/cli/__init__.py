"""The command line `nbcore`; importing it imports none of the libraries that it needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nbcore.errors import MissingExtraError, NbcoreError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 after an error of the user.

    Args:
        arguments: the arguments of the command `nbcore`; by default those of the process.
    """
    try:
        from nbcore.cli.app import run  # noqa: PLC0415  needs the extra "cli"
        from nbcore.cli.console import show_error  # noqa: PLC0415  the same
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("rich", "typer"):
            raise
        missing = MissingExtraError("The command line", "cli", error.name)
        sys.stderr.write(f"Error: {missing}\n")
        return 2
    try:
        return run(arguments)
    except NbcoreError as error:
        show_error(error)
        return 2
