"""The command inside this process, as if it were one of its own: environment, folder, standard streams, signals."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import IO


def call(arguments: Sequence[str], *, environ: Mapping[str, str], cwd: Path) -> tuple[int, bytes, bytes]:
    """Run the command line; return its exit code and what it wrote to stdout and stderr."""
    from backprop_core.cli.app import run_command

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with ExitStack() as stack:
            for name, file in (("stdin", None), ("stdout", out), ("stderr", err)):
                stack.enter_context(_stream(name, file))
            for context in (_environment(environ), chdir(cwd), _signals(), _not_adopting()):
                stack.enter_context(context)
            code = run_command(arguments)
        return code, _written(out), _written(err)


def _written(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


@contextmanager
def _stream(name: str, file: IO[bytes] | None) -> Iterator[None]:
    """Put a file (None: /dev/null) in the place of a standard stream, and of its descriptor, which children get."""
    number = ("stdin", "stdout", "stderr").index(name)
    before, kept = getattr(sys, name), os.dup(number)
    target = os.open(os.devnull, os.O_RDWR) if file is None else os.dup(file.fileno())
    os.dup2(target, number)
    os.close(target)
    mode = "r" if file is None else "w"
    try:
        with open(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False) as stream:
            setattr(sys, name, stream)
            yield
    finally:
        setattr(sys, name, before)
        os.dup2(kept, number)
        os.close(kept)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    _replace_environment(values)
    try:
        yield
    finally:
        _replace_environment(before)


def _replace_environment(values: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


@contextmanager
def _signals() -> Iterator[None]:
    """Give back what the command does with signals that a terminal sends."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _not_adopting() -> Iterator[None]:
    """Adopt no orphans any more once the run that made this process do so has ended."""
    try:
        yield
    finally:
        if sys.platform == "linux":
            import ctypes

            pr_set_child_subreaper = 36
            ctypes.CDLL(None).prctl(pr_set_child_subreaper, 0, 0, 0, 0)
