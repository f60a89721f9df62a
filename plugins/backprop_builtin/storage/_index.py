"""`experiments.json.index`: where each record lies, so that a few of many are read without the rest.

Whoever writes experiments.json leaves it, and says which file it is of: to the byte, the inode and the nanosecond. It
is written over with each file and never trusted with another, nor where its checksum does not hold, so that it needs
no flush to the disk and may lie there half written: a file that was edited, restored, or written by a version that
knows no index is read whole, and so is one in which a record does not lie where it should.
"""

# No `from __future__ import annotations`: msgspec would compile and evaluate each one, one by one.
import zlib
from contextlib import suppress
from pathlib import Path

import msgspec

from ._files import DamageError, Stamp, overwrite_file, read_plain_file
from ._records import CLOSING, OPENING, SEPARATOR, UNREADABLE

_CHECKSUM_BYTES = 4


class Columns(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A line of the file for each place in each of these, in the order of the file.

    `starts` and `states` are what choosing among records needs, `lengths` bytes of lines without what separates them.
    """

    ids: list[str]
    starts: list[int | float]
    states: list[str | None]
    lengths: list[int]

    @property
    def size(self) -> int:
        """How long the file is, in bytes."""
        between = len(SEPARATOR) * max(0, len(self.lengths) - 1)
        return len(OPENING) + sum(self.lengths) + between + len(CLOSING)


class _Kept(msgspec.Struct, array_like=True, frozen=True, gc=False):
    stamp: Stamp
    columns: Columns


_decode = msgspec.msgpack.Decoder(_Kept).decode


def path_of(store: Path) -> Path:
    """Name the index of a store."""
    return store.with_name(f"{store.name}.index")


def keep(store: Path, stamp: Stamp, columns: Columns) -> None:
    """Leave an index of the file that bears that stamp; for the holder of its lock.

    A store whose index cannot be written is as good without.
    """
    with suppress(OSError, OverflowError, *UNREADABLE):
        text = msgspec.msgpack.encode(_Kept(stamp, columns))
        head = zlib.crc32(text).to_bytes(_CHECKSUM_BYTES)
        overwrite_file(path_of(store), head + text)


def of_file(store: Path, stamp: Stamp) -> Columns | None:
    """Read the index; None where there is none, or none of just that file."""
    try:
        text = read_plain_file(path_of(store)) or b""
        if zlib.crc32(text[_CHECKSUM_BYTES:]).to_bytes(_CHECKSUM_BYTES) != text[:_CHECKSUM_BYTES]:
            return None
        kept = _decode(memoryview(text)[_CHECKSUM_BYTES:])
    except (OSError, DamageError, *UNREADABLE):
        return None
    columns = kept.columns
    is_even = len(columns.ids) == len(columns.starts) == len(columns.states) == len(columns.lengths)
    return columns if kept.stamp == stamp and is_even and columns.size == stamp.size else None
