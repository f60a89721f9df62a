"""Rows of a database's table of runs, newest first, with those among them that journals will make."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, closing

from backprop_core import RunState

from ._database import column
from ._journals import Journal
from ._records import glance

Row = tuple[int, int, bytes, bytes, bytes]
"""Start in ms since 1970, place among those that started together, run id, state, record."""

_SELECT = "SELECT start_time, place, id, state, record FROM runs"
_BEHIND_ALL = 2**63


def rows(db: sqlite3.Connection, states: Collection[RunState], cursors: ExitStack) -> Iterator[Row]:
    """Give what is stored, read only as far as it is asked for; () means every state."""
    newest_first = "ORDER BY start_time DESC, place DESC"
    if not states:
        return iter(cursors.enter_context(closing(db.execute(f"{_SELECT} {newest_first}"))))
    each = [
        cursors.enter_context(closing(db.execute(f"{_SELECT} WHERE state = ? {newest_first}", (str(state),))))
        for state in set(states)
    ]
    return heapq.merge(*each, key=_by_start, reverse=True)


def rows_with(db: sqlite3.Connection, beginning: str, written: str, cursors: ExitStack) -> Iterator[Row]:
    """Give those whose id begins so, or in whose record that text is written."""
    question = (
        f"{_SELECT} WHERE substr(id, 1, length(?1)) = ?1 OR instr(record, ?2) "
        "ORDER BY start_time DESC, place DESC"
    )
    return iter(cursors.enter_context(closing(db.execute(question, (beginning, written)))))


def line_of(db: sqlite3.Connection, run_id: str) -> bytes | None:
    """Give the record as it is stored; None where there is none."""
    row = _row_of(db, run_id)
    return None if row is None else row[-1]


def _row_of(db: sqlite3.Connection, run_id: str) -> Row | None:
    found: Row | None = db.execute(f"{_SELECT} WHERE id = ?", (run_id,)).fetchone()
    return found


def ahead(db: sqlite3.Connection | None, waiting: Iterable[Journal]) -> dict[bytes, Row]:
    """Give the rows that journals will make or replace once they are merged, by run id.

    :param db: None where there is no database yet.
    """
    found: dict[bytes, Row] = {}
    for turn, journal in enumerate(waiting):
        run_id, line = journal.run_id.encode(), journal.line
        stored = found.get(run_id) or (None if db is None else _row_of(db, journal.run_id))
        if line is not None and journal.is_ahead_of(stored and stored[-1]):
            seen = glance(line)
            place = stored[1] if stored else _BEHIND_ALL + turn
            found[run_id] = (column(seen.start_time), place, run_id, (seen.status or "").encode(), line)
    return found


def with_ahead(stored: Iterator[Row], found: dict[bytes, Row], states: Collection[RunState]) -> Iterator[Row]:
    """Put rows that wait among those that are stored, in the place of older ones of the same run."""
    if not found:
        return stored
    chosen = [row for row in found.values() if not states or text(row[3]) in states]
    chosen.sort(key=_by_start, reverse=True)
    return heapq.merge((row for row in stored if row[2] not in found), chosen, key=_by_start, reverse=True)


def text(value: bytes) -> str:
    """Decode a column, whatever another program may have put into it."""
    return value.decode(errors="backslashreplace")


def _by_start(row: Row) -> tuple[int, int]:
    return row[:2]
