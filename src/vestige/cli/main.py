"""The ``vestige`` command: runs a command, and turns errors into a line and an exit status.

Nothing here or in the modules of commands imports torch before a command needs a model.
"""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn

from vestige.cli.app import app
from vestige.cli.output import err
from vestige.core.access import explained
from vestige.core.redaction import redact
from vestige.core.types import VestigeError

INTERRUPTED = 130  # the exit status that typer makes of Ctrl-C


def main() -> NoReturn:
    """Run the command; a ``VestigeError``, and a file that cannot be used, is one line and exit
    status 2."""
    escape_what_a_terminal_lacks()
    try:
        app()
    except VestigeError as error:
        if os.environ.get("VESTIGE_DEBUG"):
            raise
        print_error(f"error: {error}")
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            err.print("stopped; finished stages are kept, the same command goes on from there")
        raise
    except Exception as error:
        if os.environ.get("VESTIGE_DEBUG"):
            raise
        if known := explained(error):
            print_error(f"error: {known}")
            sys.exit(2)
        print_error(
            f"unexpected {type(error).__name__}: {error}\nrun again with --debug for the traceback"
        )
        sys.exit(1)
    sys.exit(0)


def print_error(text: str) -> None:
    """Print an error without the keys in it."""
    err.print(redact(text), style="red", markup=False, soft_wrap=True)


def escape_what_a_terminal_lacks() -> None:
    """Let the terminal's encoding, whatever it is, take every text: what it lacks is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
