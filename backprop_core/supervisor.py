"""The core's end of a running attempt: the output pipe, the keeper's messages, signals, and the ticking of watchers."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from .clock import now_s
from .keeper import Tree
from .records import ProcessExit, Record
from .starting import PIPE_BYTES, STOP_SIGNALS, Keeper, Signals

READ_BYTES = 64 * 1024
"""What is made of so much fits a processor's cache, and the allocator keeps the memory for the next."""
SMALL_BYTES = PIPE_BYTES // 4
COALESCE_S = 0.005
START_LIMIT_S = 10.0
DRAIN_S = 2.0
LOOKS = 20
LOOK_EVERY_S = 0.002


class Ending(Record, frozen=True):
    """How an attempt ended.

    `why` is what we initiated before the script ended: "time box", "pause limit" or the word given to
    `Control.stop`; None when it ended by itself. `asked` is the first word given to `Control.stop`, too late or
    not. `message` tells why it did not start, `exit` is None then.
    """

    exit: ProcessExit | None
    why: str | None = None
    message: str | None = None
    asked: str | None = None


class Control(Protocol):
    """What a sink may ask of the running script. `pipe` is the inode number of the pipe that it writes to."""

    @property
    def pipe(self) -> int: ...

    def pause(self, cause: str) -> None:
        """Pause for a cause; several may hold at once."""

    def release(self, cause: str | None) -> None:
        """Take a cause back (None: all); the script continues when none is left."""

    def stop(self, why: str) -> None:
        """Begin the stop ladder."""

    def extend(self, seconds: float) -> None:
        """Move the end of the time box."""


class Sink(Protocol):
    """What a running attempt is reported to; all calls come from the supervising thread."""

    def started(self, control: Control, keeper: int, pid: int, deadline_s: float) -> None: ...
    def output(self, data: bytes) -> None: ...
    def is_behind(self) -> bool:
        """Tell whether earlier output still waits for its reader, after waiting a moment for that.

        Then no more is read, unless the run is being stopped.
        """
        ...

    def paused(self, causes: Sequence[str]) -> None: ...
    def continued(self, deadline_s: float) -> None: ...
    def stopping(self, why: str, rung: str) -> None: ...
    def tick(self) -> float:
        """Look at requests and measurements; returns how many seconds may pass until the next call."""
        ...

    def suspended(self) -> None:
        """The person pressed Ctrl-Z: let go of the terminal."""

    def resumed(self) -> None:
        """The person brought us back with `fg`."""


class Supervisor:
    """Supervises one attempt in the calling thread, which must be the main one.

    :param signals: Where the signals that we serve arrive, from `held_signals`.
    :param keeper: One that has its plan.
    """

    def __init__(self, sink: Sink, signals: Signals, keeper: Keeper) -> None:
        self._keeper = keeper
        self._control, self._output = keeper.control, keeper.output
        self._sink = sink
        self._wakeup = signals
        self._sent = b""
        self._received = b""
        self._interrupts = 0
        self._pid: int | None = None
        self._asked: str | None = None
        self._ending = Ending(exit=None)
        self._is_gone = False
        self._is_drained = False
        self._is_over = False
        self._is_listening = True
        self._deaf_until_s = 0.0
        self._rested_at_s = 0.0
        self._gathered_bytes = 0
        self._is_suspending = False
        self._is_stopping = False

    # --- what a sink may ask for ---

    @property
    def pipe(self) -> int:
        return os.fstat(self._output).st_ino

    def pause(self, cause: str) -> None:
        self._tell(do="pause", cause=cause)

    def release(self, cause: str | None) -> None:
        self._tell(do="continue", cause=cause)

    def stop(self, why: str) -> None:
        self._asked = self._asked or why
        self._tell(do="stop", why=why)

    def extend(self, seconds: float) -> None:
        self._tell(do="extend", seconds=seconds)

    def wake(self) -> None:
        """Bring the next tick forward; may be called from any thread."""
        with suppress(OSError):
            self._wakeup[1].send(b"\0")

    # --- the story ---

    def run(self) -> Ending:
        """Follow the script to its end, and return when nothing of it is left."""
        try:
            if self._is_reachable():
                self._follow()
        finally:
            self._keeper.close()
        self._keeper.reap()
        return msgspec.structs.replace(self._ending, asked=self._asked)

    def _is_reachable(self) -> bool:
        """Tell whether we still have what the keeper is reached by: somebody may have closed it."""
        try:
            self._control.setblocking(False)
            os.set_blocking(self._output, False)
        except OSError:
            self._on_descriptors_gone()
            return False
        return True

    def _follow(self) -> None:
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup[0], select.POLLIN)
        next_tick_s = now_s()
        while not self._is_over:
            ready = dict(poll.poll(self._sleep_s(next_tick_s) * 1000))
            if any(event & select.POLLNVAL for event in ready.values()):
                self._on_descriptors_gone()
                return
            if self._wakeup[0].fileno() in ready and self._on_signals():
                next_tick_s = 0.0
            if self._output in ready:
                self._read_output()
            self._listen_to_output(poll)
            if self._control.fileno() in ready:
                self._on_messages()
            if self._pid is not None and now_s() >= next_tick_s:
                next_tick_s = now_s() + self._sink.tick()
        self._read_rest()

    def _sleep_s(self, next_tick_s: float) -> float:
        wake_s = next_tick_s if self._pid is not None else now_s() + START_LIMIT_S
        if self._deaf_until_s:
            wake_s = min(wake_s, self._deaf_until_s)
        return max(0.0, wake_s - now_s())

    def _listen_to_output(self, poll: select.poll) -> None:
        """Let output gather for a moment after a small read.

        Reading line by line costs the script more than a full pipe does: it is woken with us each time.
        """
        if self._is_drained:
            if self._is_listening:
                poll.unregister(self._output)
            self._is_listening, self._deaf_until_s = False, 0.0
            return
        wants = now_s() >= self._deaf_until_s
        if wants and not self._is_stopping and self._sink.is_behind():
            wants, self._deaf_until_s = False, now_s()
        if wants:
            self._deaf_until_s = 0.0  # what is past would have us not sleep at all
        if wants and not self._is_listening:
            poll.register(self._output, select.POLLIN)
        elif not wants and self._is_listening:
            poll.unregister(self._output)
        self._is_listening = wants

    def _read_output(self) -> bool:
        """Read what there is; False at the end of the pipe."""
        try:
            data = os.read(self._output, READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            self._is_drained = True
            return False
        self._gathered_bytes += len(data)
        if len(data) < SMALL_BYTES:
            self._rest()
        self._sink.output(data)
        return True

    def _rest(self) -> None:
        """Read no more for a moment: while half of the pipe fills, at the pace since the last rest."""
        now = now_s()
        pace_s = (now - self._rested_at_s) / self._gathered_bytes
        self._deaf_until_s = now + min(COALESCE_S, PIPE_BYTES / 2 * pace_s)
        self._rested_at_s, self._gathered_bytes = now, 0

    def _on_messages(self) -> None:
        try:
            data = self._control.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_keeper_gone()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._on_message(msgspec.json.decode(line))

    def _on_message(self, said: Mapping[str, Any]) -> None:
        match said["is"]:
            case "started":
                self._pid = said["pid"]
                self._sink.started(self, self._keeper.pid, said["pid"], said["deadline"])
            case "failed":
                self._ending = Ending(exit=None, message=said["message"])
            case "paused":
                self._sink.paused(said["causes"])
                self._suspend_if_asked()
            case "continued":
                self._sink.continued(said["deadline"])
            case "extended":
                self._sink.continued(said["deadline"])
            case "stopping":
                self._is_stopping = True
                self._sink.stopping(said["why"], said["rung"])
            case "exited":
                exited = ProcessExit(code=said["code"], signal=said["signal"])
                self._ending = Ending(exit=exited, why=said["why"])
            case "gone":
                self._is_gone = True

    def _on_keeper_gone(self) -> None:
        """The keeper's end closed: it has finished, or it was killed and what is left has come to us."""
        self._is_over = True
        if self._is_gone:
            return
        if self._pid is None and self._ending.message is None:
            self._ending = Ending(exit=None, message="the keeper process did not start")
        elif self._ending.exit is None and self._pid is not None:
            self._ending = Ending(exit=ProcessExit(signal=signal.SIGKILL), message="the keeper was killed")
        end_descendants(spare={self._keeper.pid})

    def _on_descriptors_gone(self) -> None:
        """Somebody in this process closed what is not theirs: the keeper notices, and ends the run by the ladder."""
        exited = self._ending.exit or ProcessExit(signal=signal.SIGKILL)
        message = "a plugin closed the descriptors that Backprop follows the run with"
        self._ending = Ending(exit=exited, message=message)

    def _read_rest(self) -> None:
        """Read what is left in the pipe; somebody outside the tree may hold it open, so not for ever."""
        end_s = now_s() + DRAIN_S
        while not self._is_drained and now_s() < end_s:
            ready, _, _ = select.select([self._output], [], [], max(0.0, end_s - now_s()))
            if ready:
                self._read_output()

    # --- signals ---

    def _on_signals(self) -> bool:
        """Serve the signals that came; True when a tick was asked for, by `wake` or by who posted a request."""
        try:
            numbers = self._wakeup[0].recv(4096)
        except BlockingIOError:
            return False
        for number in numbers:
            match number:
                case signal.SIGINT:
                    self._on_interrupt()
                case signal.SIGTERM | signal.SIGHUP:
                    self.stop(STOP_SIGNALS[signal.Signals(number)])
                case signal.SIGTSTP:
                    self._is_suspending = True
                    self.pause("Ctrl-Z")
        return not {0, signal.SIGCONT}.isdisjoint(numbers)

    def _on_interrupt(self) -> None:
        """First a graceful stop, then SIGTERM to the tree, then SIGKILL."""
        self._interrupts += 1
        if self._interrupts == 1:
            self.stop("Ctrl-C")
        else:
            self._tell(do="terminate" if self._interrupts == 2 else "kill")

    def _suspend_if_asked(self) -> None:
        if not self._is_suspending:
            return
        self._is_suspending = False
        self._sink.suspended()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.release("Ctrl-Z")  # we are here again: somebody typed `fg`
        self._sink.resumed()

    def _tell(self, **message: Any) -> None:
        with suppress(OSError):  # a keeper that is gone is noticed by its socket
            self._control.sendall(msgspec.json.encode(message) + b"\n")


def end_descendants(spare: Collection[int]) -> None:
    """Kill every descendant of this process until none is left, reaping those that come to us.

    One empty look proves nothing: somebody may have been forking himself away just then.
    """
    tree = Tree()
    looks_left = LOOKS
    while looks_left:
        left = [one for one in tree.members() if one.pid not in spare and one.state not in b"ZX"]
        for one in left:
            one.send(signal.SIGKILL)
        for one in left:
            with suppress(OSError):
                os.waitpid(one.pid, os.WNOHANG)
        looks_left = LOOKS if left else looks_left - 1
        time.sleep(0 if left else LOOK_EVERY_S)
