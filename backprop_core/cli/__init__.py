"""The command line: the only place that prints, and the only one that exits."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time

INTERRUPT_EVERY_S = 0.5
OBJECTS_A_COLLECTION = 50_000
"""More than a start makes: nearly all of it stays, and looking through it for garbage takes a twentieth of a start."""


def main() -> None:
    """Run the command that was typed, and exit with its code."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_what_is_closed()
    if sys.argv[1:] == ["--version"]:  # answered before anything is imported
        from backprop_core import __version__

        print(f"backprop {__version__}")
        return
    gc.set_threshold(OBJECTS_A_COLLECTION)
    signal.pthread_sigmask(
        signal.SIG_SETMASK, ()
    )  # who started us with signals blocked must still be able to stop us
    _calm_interrupts()
    try:
        _import_libraries()
        from .app import run_command

        code = run_command(sys.argv[1:])
    except KeyboardInterrupt:  # during the import, or when all is over
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not change how it ended
    _flush()
    gc.freeze()  # the interpreter would look through everything once more before it goes, and find nothing to do
    sys.exit(code)


def _import_libraries() -> None:
    """Import what every command needs, without what that imports and nobody needs.

    `typing_extensions` is one of these: msgspec takes it where it is there, and needs nothing of it.
    """
    from .put_off import HARDLY_USED, put_off

    is_there = "typing_extensions" in sys.modules
    if not is_there:
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # which says that there is none
    try:
        with put_off(HARDLY_USED):
            import pathlib  # noqa: F401

            import msgspec  # noqa: F401
            import pluggy  # noqa: F401
    finally:
        if not is_there:
            del sys.modules["typing_extensions"]


def _calm_interrupts() -> None:
    """Make a hammered Ctrl-C one KeyboardInterrupt, so that what it sets off is not interrupted in turn."""
    last_s = -INTERRUPT_EVERY_S

    def interrupt(*_: object) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= INTERRUPT_EVERY_S:
            last_s = time.monotonic()
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def _open_what_is_closed() -> None:
    """Give the standard streams that we were started without a place, lest files of ours take it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # which is given the lowest free number
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _flush() -> None:
    """Write out what is buffered; a reader that has gone (`| head`, a closed terminal) is no error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
