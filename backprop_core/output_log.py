"""A run's `output.log`: everything the script printed, bounded by leaving out the middle."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .locks import open_private

MARK = "\n[backprop left out %020d bytes here]\n"
_MARK_BYTES = len(MARK % 0)
_CHUNK_BYTES = 1 << 20


class OutputLog:
    """Appends to the log and keeps it under a limit: its first half stays, of the rest the newest.

    A disk that is full or gone loses output, counted in `lost_bytes`, and nothing else.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._head = most_bytes // 2
        self._most = max(most_bytes, self._head + 4 * _MARK_BYTES)
        self.path = path
        self.lost_bytes = 0
        self.error: str | None = None
        self._file: int | None = None
        self._size = 0
        try:
            self._file = open_private(path, os.O_RDWR)
            self._size = os.fstat(self._file).st_size
        except OSError as error:
            self.error = error.strerror
        self._left_out = self._read_mark()

    def write(self, data: bytes) -> None:
        """Append a chunk of output."""
        view = memoryview(data)
        while view and self._file is not None:
            room = self._most - self._size
            if room <= 0:
                self._leave_out()
                continue
            try:
                written = os.pwrite(self._file, view[:room], self._size)
            except OSError as error:
                self.error = error.strerror
                break
            self._size += written
            view = view[written:]
        self.lost_bytes += len(view)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None

    def _read_mark(self) -> int:
        if self._file is None or self._size <= self._head:
            return 0
        found = os.pread(self._file, _MARK_BYTES, self._head).decode("ascii", "replace")
        digits = found.removeprefix(MARK[: MARK.index("%")])[:20]
        return int(digits) if digits.isdigit() and found == MARK % int(digits) else 0

    def _leave_out(self) -> None:
        """Make room: of what follows the first half, keep the newer part, half of the room there is."""
        assert self._file is not None
        start = self._head + _MARK_BYTES
        keep = (self._most - start) // 2
        old = start if self._left_out else self._head
        self._left_out += self._size - keep - old
        try:
            self._move(self._size - keep, start, keep)
            os.pwrite(self._file, (MARK % self._left_out).encode(), self._head)
            os.ftruncate(self._file, start + keep)
        except OSError as error:
            self.error = error.strerror
        self._size = start + keep

    def _move(self, source: int, target: int, size: int) -> None:
        assert self._file is not None
        for offset in range(0, size, _CHUNK_BYTES):
            chunk = os.pread(self._file, min(_CHUNK_BYTES, size - offset), source + offset)
            os.pwrite(self._file, chunk, target + offset)
