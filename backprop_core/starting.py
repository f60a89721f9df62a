"""A keeper that starts before it is known what for, and signals that wait until somebody serves them."""

from __future__ import annotations

import fcntl
import os
import signal
from _socket import socket, socketpair  # `socket` around it takes longer to import than a keeper to start
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from .errors import BackpropError
from .interrupts import served_elsewhere
from .keeper import PR_SET_CHILD_SUBREAPER, command, prctl
from .records import Record

PIPE_BYTES = 256 * 1024
TERM_S = 5.0
STOP_SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "the terminal was closed",
}

Signals = tuple[socket, socket]
"""Both ends of what `held_signals` makes: numbers of signals come out of the first, a 0 is a call to look."""


class Job(Record, frozen=True):
    """What the keeper is to start and hold."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path
    limit_s: float
    grace_s: float
    max_pause_s: float
    time_box_file: Path


class Keeper:
    """A keeper that starts meanwhile and waits for its plan; let go without one, it leaves no trace.

    `pid` is its process id, `control` our end of the socket to it, and `output` our end of the pipe that the script is
    going to write to.

    :param locks: Descriptors that stay open as long as it lives.
    :raises BackpropError: when it does not start.
    """

    def __init__(self, locks: Sequence[int]) -> None:
        try:
            self.output, self._script_end = os.pipe()
            self.control, theirs = socketpair()
        except OSError as error:
            raise BackpropError(f"the keeper process does not start: {error.strerror}") from error
        self._locks = tuple(locks)
        self._has_plan = False
        with suppress(OSError):  # a user's pipes may take 64 MiB in all; the default of 64 KiB works too
            fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # Elsewhere than on Linux, what a killed keeper leaves is out of reach.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            inherited = (theirs.fileno(), self.output, self._script_end, *locks)
            self.pid = _spawn(command(theirs.fileno()), inherited)
        except BaseException:
            os.close(self.output)
            raise
        finally:
            theirs.close()
            os.close(self._script_end)

    def start(self, job: Job) -> None:
        """Have it start the script; whether it does is told over `control`."""
        self._has_plan = True
        plan = {
            "argv": job.argv,
            "env": dict(job.environment),
            "cwd": str(job.cwd),
            "output": self._script_end,
            "drain": self.output,
            "locks": self._locks,
            "limit_s": job.limit_s,
            "grace_s": job.grace_s,
            "term_s": TERM_S,
            "max_pause_s": job.max_pause_s,
            "time_box_file": str(job.time_box_file),
        }
        with suppress(OSError):  # a keeper that died at once is noticed when its end of the socket closes
            self.control.sendall(_as_line(plan))

    def let_go(self) -> None:
        """Have it leave, which one with a plan does when it has ended the script.

        One without a plan has nothing to end, and is killed: its locks are free again then.
        """
        self.close()
        if not self._has_plan:
            with suppress(ChildProcessError):  # a plugin has buried it: its number may be another's
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                os.kill(self.pid, signal.SIGKILL)
            self.reap()

    def close(self) -> None:
        """Close our ends of what leads to it."""
        output, self.output = self.output, -1
        with suppress(OSError):  # a plugin may have closed what is not its own
            self.control.close()
        if output >= 0:
            with suppress(OSError):
                os.close(output)

    def reap(self) -> None:
        """Wait until it is gone."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _as_line(message: Mapping[str, Any]) -> bytes:
    """Encode for the keeper; text that is not Unicode (names of files may hold any bytes) goes as escapes."""
    try:
        return msgspec.json.encode(message) + b"\n"
    except UnicodeEncodeError:
        import json

        return json.dumps(message).encode() + b"\n"


def _spawn(argv: Sequence[str], inherited: Sequence[int]) -> int:
    for descriptor in inherited:
        os.set_inheritable(descriptor, True)
    try:
        return os.posix_spawn(
            argv[0],
            list(argv),
            os.environ,
            setsid=True,
            # What is sent to our process group may reach it before it has left that; it drops this.
            setsigmask=[*STOP_SIGNALS, signal.SIGTSTP],
            setsigdef=[signal.SIGPIPE],
        )
    except OSError as error:
        raise BackpropError(f"the keeper process does not start: {error}") from error
    finally:
        for descriptor in inherited:
            os.set_inheritable(descriptor, False)


@contextmanager
def held_signals(*, on_hangup: bool = True) -> Iterator[Signals]:
    """Turn the signals we serve into bytes on a socket while the block runs.

    The block begins before a record says that the run is going on and lasts until one says how it ended, so
    that no Ctrl-C in between loses either. SIGHUP is left alone where it was ignored from the start (nohup), or
    on request.
    """
    ours, theirs = socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    served = [signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCONT]
    if on_hangup and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        served.append(signal.SIGHUP)
    before = {number: signal.signal(number, served_elsewhere) for number in served}
    old_wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours, theirs
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        for end in (ours, theirs):
            with suppress(OSError):
                end.close()


def late_stop(signals: Signals) -> str | None:
    """Return which stop came after the script had ended, in the words of `STOP_SIGNALS`; None without one."""
    try:
        numbers = signals[0].recv(4096)
    except OSError:
        return None
    return next((STOP_SIGNALS[signal.Signals(n)] for n in numbers if n in set(STOP_SIGNALS)), None)
