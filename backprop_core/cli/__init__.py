"""The command line: the only place that prints, and the only one that exits."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command that was typed, and exit with its code."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_what_is_closed()
    if sys.argv[1:] == ["--version"]:  # answered before anything is imported
        from backprop_core import __version__

        print(f"backprop {__version__}")
        return
    try:
        from .app import run_command

        code = run_command(sys.argv[1:])
    except KeyboardInterrupt:  # during the import, or when all is over
        code = 130
    _flush()
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Give the standard streams that we were started without a place, lest files of ours take it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # which is given the lowest free number
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)


def _flush() -> None:
    """Write out what is buffered; a reader that has gone (`| head`, a closed terminal) is no error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
