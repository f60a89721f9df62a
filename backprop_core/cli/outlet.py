"""Writing to a reader who may be slow, stand still or be gone, without waiting for them.

A terminal that was halted with Ctrl-S, or a pager that waits for a key, must keep nobody from stopping the run.
"""

from __future__ import annotations

import io
import os
import select
import stat
from typing import TextIO

MOST_BYTES = 64 << 20
WAIT_S = 0.01
_STEP_BYTES = 1 << 20


class Outlet:
    """A standard stream, past Python's own buffer. What its reader does not take at once is kept for later.

    A reader that has gone away takes everything from then on. What would be kept beyond 64 MiB is dropped: so
    much gathers only while a run is being stopped, and all of it is in the run's log.
    """

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()
        self._own = _without_waiting(self._descriptor)
        self._never_waits = _never_waits(os.fstat(self._descriptor))
        self._backlog = bytearray()
        self._is_gone = False

    def write(self, data: bytes) -> None:
        """Pass on what can be passed on now, after what was left of earlier."""
        if self.is_behind():
            self._backlog += data[: MOST_BYTES - len(self._backlog)]
            return
        taken = self._pass_on(data)
        if taken < len(data):
            self._backlog += data[taken:]

    def is_behind(self) -> bool:
        """Try for a moment to pass on what is left, and tell whether some still is."""
        if self._backlog:
            select.select([], [self._descriptor], [], WAIT_S)
            del self._backlog[: self._pass_on(bytes(self._backlog[:_STEP_BYTES]))]
        return bool(self._backlog)

    def finish(self) -> None:
        """Wait until everything was taken; Ctrl-C ends the wait."""
        while self.is_behind():
            pass

    def _pass_on(self, data: bytes) -> int:
        """Write without waiting; return how many bytes are done with."""
        view, done = memoryview(data), 0
        while done < len(data) and not self._is_gone:
            try:
                written = self._put(view[done:])
            except OSError:
                self._is_gone = True
                break
            if not written:
                return done
            done += written
        return len(data)

    def _put(self, view: memoryview) -> int:
        """Write what there is room for; 0 when there is none."""
        if self._own is not None:
            try:
                return os.write(self._own, view)
            except BlockingIOError:
                return 0
        if self._never_waits:
            return os.write(self._descriptor, view)
        # Where a pipe has room at all it has room for this much.
        has_room = select.select([], [self._descriptor], [], 0)[1]
        return os.write(self._descriptor, view[: select.PIPE_BUF]) if has_room else 0


def _never_waits(target: os.stat_result) -> bool:
    """Tell whether what is written is taken at once, however much it is: by a file, or by nobody at all."""
    return stat.S_ISREG(target.st_mode) or os.path.samestat(target, os.stat(os.devnull))


def _without_waiting(descriptor: int) -> int | None:
    """Open the same pipe or terminal anew, for writing that does not wait; None where that is not possible.

    The flag belongs to the open file, and the one that we were given is shared with others.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or os.isatty(descriptor)):
        return None
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return None


class TextOutlet(io.TextIOBase):
    """An outlet as a text file, which is what rich draws on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._outlet = Outlet(stream)
        self.is_behind = self._outlet.is_behind
        self.finish = self._outlet.finish

    def write(self, text: str) -> int:
        self._outlet.write(text.encode(self._stream.encoding, "replace"))
        return len(text)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def text_outlet(stream: TextIO) -> TextOutlet | None:
    """Make an outlet of a text file; None for one in memory, which takes everything at once."""
    try:
        stream.fileno()
    except io.UnsupportedOperation:
        return None
    return TextOutlet(stream)
