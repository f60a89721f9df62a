"""Locks that are waited for no longer than is allowed, and given in the order of asking.

Whoever finds a lock taken waits in the kernel's own queue, which wakes one waiter at a time. No signal can bound
such a wait on every thread, and so it is a small thread that waits: one that is given up lets go of the lock as
soon as it has it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from backprop_core import StorageError, open_private

from ._files import explained

WORTH_A_THREAD_S = 1.0
IN_TURN_S = 2.0
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.01


class LockBusyError(StorageError):
    """Another process held the lock for all of the time that was allowed."""


@contextmanager
def locked(path: str, wait_s: float, waited_s: float = 0.0) -> Iterator[int]:
    """Hold the file's lock, and give its descriptor, open for reading and writing.

    :param wait_s: How long to wait for another holder, in seconds.
    :param waited_s: How long that has been waited for already.
    :raises LockBusyError: when it is still held then.
    :raises StorageError: when it cannot be opened, or the file system has no locks.
    """
    with explained("open", path):
        descriptor = open_private(path, os.O_RDWR)
    turn = _Turn(descriptor, path)
    try:
        if not (turn.is_free() or turn.comes_within(wait_s)):
            raise LockBusyError(
                f"{path} has been locked by another process for {waited_s + wait_s:g} s",
                "`fuser -v` on that file names it: a stopped process keeps its lock until it goes on or ends",
            )
        yield descriptor
    finally:
        with explained("close", path):  # the lock goes in any case
            turn.let_go()


@contextmanager
def locked_in_turn(path: str, wait_s: float) -> Iterator[int]:
    """Hold the file's lock as `locked` does, behind everyone who waits for it already.

    The kernel does not hand a lock over: who gives it back and wants it again has it before the one that was
    woken is there. So waiters wait for `<path>.queue`, and the first among them for the lock. Who stands still
    at the head of the queue is passed by after a while.
    """
    began_s = time.monotonic()
    with ExitStack() as held:
        with ExitStack() as head:
            if wait_s >= WORTH_A_THREAD_S:
                with suppress(LockBusyError):
                    head.enter_context(locked(f"{path}.queue", min(wait_s, IN_TURN_S)))
            waited_s = min(wait_s, time.monotonic() - began_s)
            descriptor = held.enter_context(locked(path, wait_s - waited_s, waited_s))
        yield descriptor


class _Turn:
    """One wait for one lock; the descriptor is the waiting thread's for as long as that waits."""

    _given_up: dict[str, _Turn] = {}  # noqa: RUF012 - by path, those of this process that still wait

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._guard = threading.Lock()
        self._has_come = threading.Event()
        self._is_waiting = False
        self._is_wanted = True
        self._error: StorageError | None = None

    def is_free(self) -> bool:
        """Take the lock if nobody else has it."""
        return self._take(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def comes_within(self, wait_s: float) -> bool:
        """Wait for the lock, and tell whether it was taken."""
        if wait_s < WORTH_A_THREAD_S or self._path in self._given_up:
            return self._is_free_within(wait_s)
        waiter = threading.Thread(target=self._wait, name=f"waits for {self._path}", daemon=True)
        self._is_waiting = True
        try:
            waiter.start()
        except RuntimeError:  # this user may have no more threads
            self._is_waiting = False
            return self._is_free_within(wait_s)
        self._has_come.wait(wait_s)
        if self._error is not None:
            raise self._error
        return self._has_come.is_set()

    def _is_free_within(self, wait_s: float) -> bool:
        deadline = time.monotonic() + wait_s
        pause_s = _FIRST_PAUSE_S
        while not self.is_free():
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return True

    def _wait(self) -> None:
        try:
            self._take(fcntl.LOCK_EX)
        except StorageError as error:
            self._error = error
        with self._guard:
            self._is_waiting = False
            self._has_come.set()
            if self._is_wanted:
                return
            self._given_up.pop(self._path, None)
        os.close(self._descriptor)

    def let_go(self) -> None:
        """Give the lock back, or the waiting for it up."""
        with self._guard:
            self._is_wanted = False
            if self._is_waiting:
                self._given_up[self._path] = self
                return
        os.close(self._descriptor)

    def _take(self, how: int) -> bool:
        try:
            fcntl.flock(self._descriptor, how)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StorageError(
                f"cannot lock {self._path}: {error.strerror or error}",
                "nothing is written without a lock: keep the records on a file system that has flock",
            ) from error
        return True
