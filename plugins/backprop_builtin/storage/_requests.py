"""What is asked of a live run, in `control`: a line for each request, blanked out when it is taken."""

from __future__ import annotations

import os

import msgspec

from backprop_core import Intent, StorageError

from ._files import explained, write_all
from ._locks import LockBusyError, locked
from ._records import UNREADABLE
from ._run_folders import REQUESTS, RunFolders

TAKE_WAIT_S = 0.05
"""A supervisor that polls comes back soon; it must not stand still for somebody who holds the lock."""

_decode = msgspec.json.Decoder(Intent).decode


def encode_request(run_id: str, intent: Intent) -> bytes:
    """Write a request as a line of JSON, without its end.

    :raises StorageError: for text that is not Unicode.
    """
    values = {name: value for name, value in msgspec.to_builtins(intent).items() if value is not None}
    try:
        return msgspec.json.encode(values)
    except UNREADABLE as error:
        raise StorageError(f"a request to run {run_id} cannot be left: {error}") from error


def decode_request(line: bytes) -> Intent | None:
    """Read a request; None for what is none."""
    try:
        return _decode(line)
    except UNREADABLE:
        return None


class Requests:
    """The requests of all runs."""

    def __init__(self, folders: RunFolders, lock_wait_s: float) -> None:
        self._folders = folders
        self._lock_wait_s = lock_wait_s

    def post(self, run_id: str, intent: Intent) -> None:
        """Leave a request."""
        line = encode_request(run_id, intent) + b"\n"
        self._folders.make(run_id)
        path = self._folders.path_of(run_id, REQUESTS)
        with locked(path, self._lock_wait_s) as descriptor, explained("write", path):
            end = os.lseek(descriptor, 0, os.SEEK_END)
            try:
                # The line end comes first too: a poster that was killed may have left half a line.
                write_all(descriptor, b"\n" + line if end else line)
            except OSError:
                os.ftruncate(descriptor, end)
                raise

    def take(self, run_id: str) -> Intent | None:
        """Take the oldest request; None also while somebody else is busy with them."""
        path = self._folders.path_of(run_id, REQUESTS)
        try:
            if os.stat(path).st_size == 0:
                return None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        try:
            with locked(path, TAKE_WAIT_S) as descriptor, explained("write", path):
                return _take_line(descriptor)
        except LockBusyError:
            return None


def _take_line(descriptor: int) -> Intent | None:
    """Blank the oldest line out in place, so that a kill at any moment leaves the others as they are."""
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    position = 0
    taken: Intent | None = None
    for line in text.splitlines(keepends=True):
        if line.strip():
            if taken is not None:
                return taken
            os.pwrite(descriptor, b" " * (len(line) - 1) + b"\n", position)
            taken = decode_request(line)
        position += len(line)
    os.ftruncate(descriptor, 0)
    return taken
