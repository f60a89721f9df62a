"""The command line: the only place that prints, and the only one that exits."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command that was typed, and exit with its code."""
    if sys.argv[1:] == ["--version"]:  # answered before anything is imported
        from backprop_core import __version__

        print(f"backprop {__version__}")
        return
    from .app import run_command

    code = run_command(sys.argv[1:])
    _flush()
    sys.exit(code)


def _flush() -> None:
    """Write out what is buffered; a reader that has gone (`| head`) is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
