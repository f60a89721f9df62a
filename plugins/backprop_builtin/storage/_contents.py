"""What experiments.json holds, read whole, or by way of its index only as far as it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate, count
from pathlib import Path
from typing import Protocol

import msgspec

from ._files import PIECE, explained
from ._index import Columns
from ._records import (
    CLOSING,
    OPENING,
    SEPARATOR,
    entry,
    glance,
    glances_at,
    lines_of,
    ordered,
    record_in,
)

Changes = Mapping[str, bytes | None]
"""Records to add or replace, by run id; None removes one."""


class StaleIndexError(Exception):
    """A record does not lie where the index says: the file has to be read whole."""


class Text(msgspec.Struct, frozen=True):
    """The file as it is to be written: in pieces, read from the old one as they are asked for, once; and its index."""

    pieces: Iterable[bytes]
    columns: Columns


class Contents(Protocol):
    """The records of a file, as it was when it was looked at."""

    @property
    def descriptor(self) -> int | None:
        """What is to be closed; None where there is nothing."""

    def newest_first(self, states: frozenset[str]) -> list[str]:
        """Order the ids of runs in these states, or in every one; what started last comes first."""

    def line(self, run_id: str) -> bytes | None:
        """Give a record; None where there is none."""

    def lines(self) -> list[tuple[str, bytes]]:
        """Give every record, in the order of the file."""

    def changed(self, changes: Changes) -> Text:
        """Write the file with changes; what is added comes last."""


class Parsed:
    """All records of a file."""

    descriptor = None

    def __init__(self, records: dict[str, msgspec.Raw]) -> None:
        self._records = records

    @cached_property
    def _seen(self) -> tuple[list[int | float], list[str | None]]:
        return _starts_and_states(self._records)

    def newest_first(self, states: frozenset[str]) -> list[str]:
        return ordered(list(self._records), *self._seen, states)

    def line(self, run_id: str) -> bytes | None:
        raw = self._records.get(run_id)
        return None if raw is None else bytes(raw)

    def lines(self) -> list[tuple[str, bytes]]:
        return [(run_id, bytes(raw)) for run_id, raw in self._records.items()]

    def changed(self, changes: Changes) -> Text:
        records = dict(self._records)
        for run_id, line in changes.items():
            if line is None:
                records.pop(run_id, None)
            else:
                records[run_id] = msgspec.Raw(line)
        lines = lines_of(records)
        starts, states = _starts_and_states(records)
        columns = Columns(list(records), starts, states, [len(line) for line in lines])
        return Text((OPENING, SEPARATOR.join(lines), CLOSING), columns)


class Indexed:
    """The records of a file that has an index. An open file stays what it is when another one takes its name.

    Each method raises StaleIndexError when something else lies where a record should, and StorageError when the
    file cannot be read.
    """

    def __init__(self, path: Path, descriptor: int, columns: Columns) -> None:
        self._path = path
        self.descriptor = descriptor
        self._columns = columns

    def _read(self, size: int, begin: int) -> bytes:
        with explained("read", self._path):
            return os.pread(self.descriptor, size, begin)

    @cached_property
    def _places(self) -> dict[str, int]:
        return dict(zip(self._columns.ids, count(), strict=False))

    @cached_property
    def _before(self) -> list[int]:
        """How much text precedes each line, and one more, but for what separates lines."""
        return list(accumulate(self._columns.lengths, initial=len(OPENING)))

    def _begin(self, place: int) -> int:
        return self._before[place] + place * len(SEPARATOR)

    def _between(self, first: int, end: int) -> Iterator[bytes]:
        """Read lines that follow each other, with what separates them."""
        at, last = self._begin(first), self._begin(end) - len(SEPARATOR)
        with explained("read", self._path):
            while at < last:
                piece = os.pread(self.descriptor, min(PIECE, last - at), at)
                if not piece:
                    raise StaleIndexError
                yield piece
                at += len(piece)

    def newest_first(self, states: frozenset[str]) -> list[str]:
        return ordered(self._columns.ids, self._columns.starts, self._columns.states, states)

    def line(self, run_id: str) -> bytes | None:
        place = self._places.get(run_id)
        if place is None:
            return None
        return _whole(self._read(self._columns.lengths[place] + 2, self._begin(place) - 1), run_id)

    def lines(self) -> list[tuple[str, bytes]]:
        text = self._text()
        begins = map(self._begin, range(len(self._columns.ids)))
        found = zip(self._columns.ids, begins, self._columns.lengths, strict=True)
        return [(run_id, _whole(text[begin - 1 : begin + size + 1], run_id)) for run_id, begin, size in found]

    def _text(self) -> bytes:
        size = self._columns.size
        text = self._read(size, 0)
        if len(text) != size or not text.startswith(OPENING) or not text.endswith(CLOSING):
            raise StaleIndexError
        return text

    def changed(self, changes: Changes) -> Text:
        for run_id in changes:
            self.line(run_id)  # to see that it lies there
        end = self._columns.size - len(CLOSING)
        if self._read(len(OPENING), 0) != OPENING or self._read(len(CLOSING) + 1, end) != CLOSING:
            raise StaleIndexError
        return Text(self._changed_pieces(changes), self._changed_columns(changes))

    def _changed_pieces(self, changes: Changes) -> Iterator[bytes]:
        ids = self._columns.ids
        parts: list[Iterable[bytes]] = []
        done = 0
        for place in sorted(self._places[run_id] for run_id in changes if run_id in self._places):
            if done < place:
                parts.append(self._between(done, place))
            line = changes[ids[place]]
            parts += [] if line is None else [(entry(ids[place], line),)]
            done = place + 1
        if done < len(ids):
            parts.append(self._between(done, len(ids)))
        parts += [(entry(one, line),) for one, line in changes.items() if line and one not in self._places]
        yield OPENING
        for number, part in enumerate(parts):
            if number:
                yield SEPARATOR
            yield from part
        yield CLOSING

    def _changed_columns(self, changes: Changes) -> Columns:
        ids, starts, states, lengths = (list(column) for column in msgspec.structs.astuple(self._columns))
        removed = []
        for run_id, line in changes.items():
            place = self._places.get(run_id, len(ids))
            if line is None:
                removed += [place] if run_id in self._places else []
                continue
            seen = glance(line)
            ids[place : place + 1] = [run_id]
            starts[place : place + 1] = [seen.start_time]
            states[place : place + 1] = [seen.status]
            lengths[place : place + 1] = [len(entry(run_id, line))]
        for place in sorted(removed, reverse=True):
            del ids[place], starts[place], states[place], lengths[place]
        return Columns(ids, starts, states, lengths)


def _starts_and_states(records: dict[str, msgspec.Raw]) -> tuple[list[int | float], list[str | None]]:
    glances = glances_at(records)
    return [seen.start_time for seen in glances], [seen.status for seen in glances]


def _whole(line: bytes, run_id: str) -> bytes:
    record = record_in(line, run_id)
    if record is None:
        raise StaleIndexError(run_id)
    return record
