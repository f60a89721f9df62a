"""Interrupting the main thread where a plugin's code keeps it: it waits, or works for too long.

A thread of its own would not do: a regular expression that never ends holds the interpreter's lock.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

LOOKS = 3
WORKING_SHARE = 0.1


class TookTooLongError(BaseException):
    """Raised inside code that takes too long; no `Exception`, which that code might catch in passing.

    `alarm` is the one that went off, maybe one around that of the code that meets this.
    """

    def __init__(self, message: str, alarm: Alarm) -> None:
        super().__init__(message)
        self.alarm = alarm


class Alarm:
    """Interrupts the block when it stands still for `idle_s`, or works for `busy_s` of processor time.

    Waiting for the processor counts as work: on a crowded machine, innocent code must not be taken for code
    that hangs. Outside the main thread, and inside another alarm, it does nothing.
    """

    def __init__(self, idle_s: float, busy_s: float) -> None:
        self._idle_s = idle_s
        self._busy_s = busy_s

    def __enter__(self) -> None:
        global _armed  # noqa: PLW0603 - a process has one timer
        if _armed is not None or threading.current_thread() is not threading.main_thread():
            return
        self._looks_every_s = self._idle_s / LOOKS
        self._idle_looks = 0
        self._first_ns: int | None = None
        self._seen_ns: int | None = None
        _armed = self
        if signal.getsignal(signal.SIGALRM) is not _look:
            signal.signal(signal.SIGALRM, _look)
        signal.setitimer(signal.ITIMER_REAL, self._looks_every_s, self._looks_every_s)

    def __exit__(self, *_: object) -> None:
        global _armed  # noqa: PLW0603
        if _armed is self:
            _armed = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def look(self) -> None:
        """See what the block has done since the last look.

        :raises TookTooLongError: in the block.
        """
        worked_ns = _worked_ns()
        if self._seen_ns is None or self._first_ns is None:
            self._first_ns = self._seen_ns = worked_ns
            return
        is_working = worked_ns - self._seen_ns > WORKING_SHARE * self._looks_every_s * 1e9
        self._idle_looks = 0 if is_working else self._idle_looks + 1
        self._seen_ns = worked_ns
        if self._idle_looks >= LOOKS - 1:
            raise TookTooLongError(f"it did nothing for {self._idle_s:g} s", self)
        if worked_ns - self._first_ns > self._busy_s * 1e9:
            raise TookTooLongError(f"it worked for {self._busy_s:g} s", self)


_armed: Alarm | None = None


def _look(*_: Any) -> None:
    if _armed is not None:
        _armed.look()


def _worked_ns() -> int:
    """Return how long this thread has run or waited for a processor, in nanoseconds.

    :source: Documentation/scheduler/sched-stats.rst: time on the processor, then time waiting to get there.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            ran, waited, _ = file.read().split()
            return int(ran) + int(waited)
    except (OSError, ValueError):
        return time.thread_time_ns()
