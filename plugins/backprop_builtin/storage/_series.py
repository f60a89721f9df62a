"""A run's series of metrics in `metrics.jsonl`: a line for each point, only ever appended to."""

# No `from __future__ import annotations`: msgspec would compile and evaluate each one, one by one.
import os
import sys
from collections.abc import Iterator, Sequence
from threading import Lock

import msgspec

from backprop_core import Progress, ProgressBatch, StorageError, open_private

from ._files import NO_LINKS, explained, write_all
from ._records import UNREADABLE
from ._run_folders import SERIES, RunFolders

_OPEN_FILES = 8
_LINES_BYTES = 1 << 20
_LARGEST = sys.float_info.max


class _Point(msgspec.Struct, rename="camel", gc=False):
    """A line as it is read: one that a later version wrote may have more in it."""

    at: int | None = None
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    metrics: dict[str, float] = {}


_encode_lines = msgspec.json.Encoder().encode_lines
_decoder = msgspec.json.Decoder(_Point)


class Series:
    """The series of all runs; files that were written to stay open, a few at a time."""

    def __init__(self, folders: RunFolders) -> None:
        self._folders = folders
        self._open: dict[str, int] = {}
        self._guard = Lock()

    def append(self, run_id: str, points: Sequence[Progress]) -> None:
        """Add points with one write; what is written outlives this process, though not a power cut.

        Numbers that JSON has no word for (NaN, infinities) are left out.
        """
        try:
            lines = _as_lines(points)
        except UNREADABLE as error:
            raise StorageError(f"metrics of run {run_id} cannot be recorded: {error}") from error
        with self._guard, explained("write", self._folders.path_of(run_id, SERIES)):
            descriptor = self._open.get(run_id)
            if descriptor is None:
                descriptor = self._open_for(run_id)
            try:
                write_all(descriptor, lines)
            except OSError:
                self._let_go(run_id)
                raise

    def _open_for(self, run_id: str) -> int:
        self._folders.make(run_id)
        while len(self._open) >= _OPEN_FILES:
            self._let_go(next(iter(self._open)))
        path = self._folders.path_of(run_id, SERIES)
        descriptor = open_private(path, os.O_RDWR | os.O_APPEND)
        self._open[run_id] = descriptor
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            write_all(descriptor, b"\n")  # a line that a full disk cut short must not swallow the next
        return descriptor

    def read(self, run_id: str) -> Iterator[Progress]:
        """Give the points, oldest first; lines that are torn or of another kind are passed over."""
        return _read(self._folders.path_of(run_id, SERIES))

    def let_go(self, run_id: str) -> None:
        """Close the run's file."""
        with self._guard:
            self._let_go(run_id)

    def _let_go(self, run_id: str) -> None:
        descriptor = self._open.pop(run_id, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close every file."""
        for run_id in list(self._open):
            self.let_go(run_id)


def _read(path: str) -> Iterator[Progress]:
    with explained("read", path):
        try:
            descriptor = os.open(path, os.O_RDONLY | NO_LINKS)
        except FileNotFoundError:
            return
        with open(descriptor, "rb") as file:
            while lines := file.readlines(_LINES_BYTES):
                yield from map(_progress, _points(lines))


def _as_lines(points: Sequence[Progress]) -> bytes:
    """Write points down as they are, all at once; with care where one holds what JSON has no word for."""
    if isinstance(points, ProgressBatch):
        return points.text if points.text.endswith(b"\n") else points.text + b"\n"
    try:
        lines = _encode_lines(points)
    except (*UNREADABLE, TypeError, OverflowError):
        lines = b"null"
    return _encode_lines([_writable(point) for point in points]) if b"null" in lines else lines


def _writable(point: Progress) -> Progress:
    metrics = {name: kept for name, value in point.metrics.items() if (kept := _finite(value)) is not None}
    return Progress(
        at=point.at,
        step=point.step,
        total_steps=point.total_steps,
        epoch=_finite(point.epoch),
        loss=_finite(point.loss),
        metrics=metrics,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and -_LARGEST <= value <= _LARGEST else None


def _points(lines: list[bytes]) -> list[_Point]:
    try:
        return _decoder.decode_lines(b"".join(lines))
    except UNREADABLE:
        return [point for line in lines for point in _points_of_line(line)]


def _points_of_line(line: bytes) -> list[_Point]:
    try:
        return _decoder.decode_lines(line)
    except UNREADABLE:
        return []


def _progress(point: _Point) -> Progress:
    return Progress(
        at=point.at,
        step=point.step,
        total_steps=point.total_steps,
        epoch=point.epoch,
        loss=point.loss,
        metrics=point.metrics,
    )
