"""Ask a command-line tool that may hang in its driver, found only where nobody else can write."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import stat
import time
from typing import TYPE_CHECKING

import msgspec

from backprop_core import ProbeError

if TYPE_CHECKING:
    from subprocess import Popen

KILL_LIMIT_S = 1.0

_asked: set[Popen[str]] = set()
"""Children that have not answered yet, of any thread."""


class Answer(msgspec.Struct, frozen=True):
    """How a tool ended and what it printed; `code` is -N when signal N ended it."""

    code: int
    text: str

    @property
    def first_line(self) -> str:
        """The line that names a failure."""
        lines = (line.strip() for line in self.text.splitlines())
        return next((line for line in lines if line), f"no text, exit code {self.code}")


class Questions:
    """Questions to one tool that share one time limit, in seconds.

    `unkillable` is a child that outlived SIGKILL, because it waits inside the kernel.
    """

    def __init__(self, program: str, limit_s: float) -> None:
        self._program = program
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self.unkillable: Popen[str] | None = None

    def __call__(self, *arguments: str) -> Answer:
        """Run the tool with these arguments.

        :raises ProbeError: when it cannot be started or the time is over; the child is killed and reaped.
        """
        import subprocess

        try:
            child = subprocess.Popen(
                [self._program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # what it started can be killed with it, and Ctrl-C does not reach it
            )
        except OSError as error:
            raise ProbeError(f"{self._name} cannot be started: {error.strerror} ({self._program})") from error
        _asked.add(child)
        try:
            output, errors = child.communicate(timeout=max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise ProbeError(f"{self._name} did not answer within {self._limit_s:g} s") from error
        finally:
            self._end(child)
            _asked.discard(child)
        return Answer(child.returncode, output if output.strip() else errors)

    @property
    def _name(self) -> str:
        return os.path.basename(self._program)

    def _end(self, child: Popen[str]) -> None:
        """Kill and reap the child if it is still there; one that no signal reaches is remembered."""
        import subprocess

        if child.returncode is not None:
            return
        _kill(child)
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        try:
            child.wait(KILL_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.unkillable = child


def _kill(child: Popen[str]) -> None:
    """Kill what the child is, and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a zombie
        os.killpg(child.pid, signal.SIGKILL)


@atexit.register
def _leave_nothing_behind() -> None:
    """End what still hangs when this process ends, whose threads are then not waited for."""
    for child in tuple(_asked):
        if child.returncode is None:
            _kill(child)


def find_trusted(program: str, path: str) -> str | None:
    """Find a program in the trusted entries of PATH; relative entries, "" and "." among them, are not.

    Trusted means that folder and file, and where a link leads, belong to root or to this user and that
    nobody else may write them. What lies above the folder is not checked.
    """
    for folder in path.split(os.pathsep):
        file = os.path.join(folder, program)
        if os.path.isabs(folder) and _is_trusted(folder) and _is_trusted(file) and os.access(file, os.X_OK):
            target = os.path.realpath(file)
            if os.path.isfile(target) and _is_trusted(os.path.dirname(target)):
                return file
    return None


def _is_trusted(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid in {0, os.geteuid()} and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
