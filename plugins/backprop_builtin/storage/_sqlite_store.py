"""An open store of records in a SQLite file."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import TypeVar

import msgspec

from backprop_core import Flaw, Intent, Progress, RunRecord, RunState, StorageError

from . import _database, _flaws
from ._database import SCHEMA_VERSION, Database, sqlite_explained
from ._files import DamageError, explained
from ._journals import Journal, Journals
from ._locks import LockBusyError, locked_in_turn
from ._reading import Reading
from ._records import newest_first, refuse_newer, seal
from ._requests import TAKE_WAIT_S, Requests, decode_request, encode_request
from ._rows import Row, ahead, line_of, rows, rows_with, text, with_ahead
from ._run_folders import RunFolders, as_record, is_run_id
from ._series import Series

LOCK_WAIT_S = 10.0
_NEWER = f"was made by a newer Backprop (this one knows schema {SCHEMA_VERSION}): it is only read"
Found = TypeVar("Found")


class SqliteStorage:
    """An open store. `problems` are sentences for the person about what was found damaged, each once.

    Writers hold the lock of `<file>.lock`, so that nobody writes into a file that is being kept aside; readers
    need none. Connections do not survive a fork: a child opens the store anew.
    """

    def __init__(self, path: Path, folders: RunFolders, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self.path = path
        self._folders = folders
        self._reading = Reading(path, folders)
        self._journals = Journals(path, folders, self._reading.note)
        self._series = Series(folders)
        self._requests = Requests(folders, lock_wait_s)
        self._lock_wait_s = lock_wait_s
        self._guard = RLock()
        self._database: Database | None = None
        self.problems = self._reading.problems

    # --- records ---

    def get(self, run_id: str) -> RunRecord | None:
        """Return the record, or None where there is none.

        :raises StorageError: when there is one that cannot be read, a newer version's for instance.
        """
        self._folders.path_of(run_id)
        waiting = [journal for journal in self._journals.waiting() if journal.run_id == run_id]
        line = self._look(lambda db: line_of(db, run_id))
        for journal in waiting:
            line = journal.line if journal.is_ahead_of(line) else line
        return None if line is None else self._reading.decoded(run_id, line)

    def save(self, record: RunRecord) -> None:
        """Add or replace the record; durable when it returns.

        Where somebody keeps the lock for longer than is waited for, the record is left in a journal in the
        run's folder, which readers see, and which the next writer adds to the database.
        """
        self.save_many((record,))

    def save_many(self, records: Sequence[RunRecord]) -> None:
        """Save records in one transaction: all of them or none."""
        lines = {record.id: seal(record) for record in records}
        for run_id in lines:
            self._folders.path_of(run_id)

        def check(db: sqlite3.Connection) -> None:
            for record in records:
                refuse_newer(line_of(db, record.id), record)

        def add(db: sqlite3.Connection) -> list[Journal]:
            check(db)
            merged = self._merge(db)
            put_copies()
            for run_id, line in lines.items():
                _database.put(db, run_id, line)
            return merged

        try:
            with self._folders.new_copies(lines) as put_copies, self._guard, self._locked() as left_s:
                self._journals.forget(self._change(add, left_s))
        except LockBusyError as busy:
            with suppress(DamageError, LockBusyError):
                self._ask(check, 0.0)
            for run_id, line in lines.items():
                kept = self._journals.keep(run_id, line)
                self._reading.note(f"{busy.message}: run {run_id} waits in {kept.parent} for the next writer")

    def runs(self, *, states: Collection[RunState] = (), limit: int | None = None) -> Sequence[RunRecord]:
        """List runs, newest first; records that cannot be read are left out and named in `problems`."""
        waiting = self._journals.waiting()

        def choose(db: sqlite3.Connection) -> list[RunRecord]:
            with ExitStack() as cursors:
                stored = rows(db, states, cursors)
                return self._read(with_ahead(stored, ahead(db, waiting), states), limit)

        found = self._look(choose)
        if found is None:  # there is no database yet
            return self._read(with_ahead(iter(()), ahead(None, waiting), states), limit)
        return found

    def _read(self, found: Iterable[Row], limit: int | None) -> list[RunRecord]:
        records = (self._listed(row) for row in found)
        return list(itertools.islice((record for record in records if record is not None), limit))

    def _listed(self, row: Row) -> RunRecord | None:
        start, _, run_id, state, line = row
        record = self._reading.decoded_or_noted(text(run_id), line)
        if record is not None and (start, text(state)) != (
            _database.column(record.start_time),
            record.status,
        ):
            self._reading.note(
                f"{self.path}: run {record.id} is listed by another state or start than its record has; "
                "saving it again mends that"
            )
        return record

    def flaws(self) -> list[Flaw]:
        """Find what is wrong with the store, and change nothing."""
        found = list(_flaws.in_journals(self._journals.waiting()))
        try:
            with self._guard:
                stored = self._ask(lambda db: db.execute("SELECT id, record FROM runs").fetchall(), None)
                is_sound = self._database is None or _database.is_sound(self._database)
        except DamageError as error:
            return [_flaws.damage(self.path, str(error), self._folders), *found]
        if not is_sound:
            hint = f"copy what it holds: backprop storage copy sqlite://{self.path} json"
            found.append(Flaw(where=str(self.path), what="does not hold together", hint=hint))
        lines = ((text(run_id), line) for run_id, line in stored or ())
        return [*found, *_flaws.in_records(self.path, self._folders, lines), *_flaws.in_folder(self.path)]

    def meant_by(self, reference: str) -> Sequence[RunRecord]:
        """List runs that a name or the beginning of an id may mean, newest first; others may be among them."""
        waiting = self._journals.waiting()

        def choose(db: sqlite3.Connection) -> list[RunRecord]:
            with ExitStack() as cursors:
                stored = rows_with(db, reference, msgspec.json.encode(reference).decode(), cursors)
                return self._read(with_ahead(stored, ahead(db, waiting), ()), None)

        found = self._look(choose)
        return self.runs() if found is None else found

    def delete(self, run_id: str) -> None:
        """Forget the run and the files that Backprop made for it."""
        self.delete_many((run_id,))

    def delete_many(self, run_ids: Collection[str]) -> None:
        """Forget runs in one transaction."""
        for run_id in run_ids:
            self._folders.path_of(run_id)

        def forget(db: sqlite3.Connection) -> list[Journal]:
            merged = self._merge(db)
            for run_id in run_ids:
                db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
                db.execute("DELETE FROM requests WHERE run_id = ?", (run_id,))
            return merged

        with self._guard, self._locked() as left_s:
            self._journals.forget(self._change(forget, left_s))
            self._journals.forget_runs(run_ids)
            for run_id in run_ids:
                self._series.let_go(run_id)
                self._folders.remove(run_id)

    def _merge(self, db: sqlite3.Connection) -> list[Journal]:
        """Bring journals that know more into the database, and give those that may go once it is committed."""
        waiting = self._journals.waiting()
        for journal in waiting:
            if journal.is_ahead_of(line_of(db, journal.run_id)):
                line = journal.line or b""
                self._folders.save_copy(journal.run_id, line)
                _database.put(db, journal.run_id, line)
        return [journal for journal in waiting if journal.is_done_with]

    # --- series and requests ---

    def append_metrics(self, run_id: str, points: Sequence[Progress]) -> None:
        self._series.append(run_id, points)

    def metrics(self, run_id: str) -> Iterable[Progress]:
        return self._series.read(run_id)

    def post(self, run_id: str, intent: Intent) -> None:
        """Leave a request; in the run's folder where somebody keeps the lock for longer than is waited for."""
        self._folders.path_of(run_id)
        line = encode_request(run_id, intent).decode()
        insert = "INSERT INTO requests (run_id, request) VALUES (?, ?)"
        try:
            with self._guard, self._locked() as left_s:
                self._change(lambda db: db.execute(insert, (run_id, line)), left_s)
        except LockBusyError:
            self._requests.post(run_id, intent)

    def take(self, run_id: str) -> Intent | None:
        """Take the oldest request; None also while somebody else is busy with them."""
        return self._take_row(run_id) or self._requests.take(run_id)

    def _take_row(self, run_id: str) -> Intent | None:
        self._folders.path_of(run_id)

        def pick(db: sqlite3.Connection) -> Intent | None:
            row = _oldest_request(db, run_id)
            if row is None:
                return None
            db.execute("DELETE FROM requests WHERE place = ?", (row[0],))
            return decode_request(row[1])

        try:
            if self._look(lambda db: _oldest_request(db, run_id), TAKE_WAIT_S) is None:
                return None
            with self._guard, self._locked(TAKE_WAIT_S) as left_s:
                return self._change(pick, left_s)
        except LockBusyError:
            return None

    def close(self) -> None:
        with self._guard:
            self._let_go()
        self._series.close()

    # --- the file ---

    @contextmanager
    def _locked(self, wait_s: float | None = None) -> Iterator[float]:
        """Hold the lock of writers; gives what is left of the wait, in seconds, for other programs' locks."""
        wait_s = self._lock_wait_s if wait_s is None else wait_s
        end_s = time.monotonic() + wait_s
        with locked_in_turn(f"{self.path}.lock", wait_s):
            yield max(0.0, end_s - time.monotonic())

    def _look(
        self, question: Callable[[sqlite3.Connection], Found], wait_s: float | None = None
    ) -> Found | None:
        """Answer from the database; None where there is none yet."""
        with self._guard:
            try:
                return self._ask(question, wait_s)
            except DamageError as damage:
                with self._locked():
                    self._mend(str(damage))
                return self._after_mending(lambda: self._ask(question, wait_s))

    def _ask(self, question: Callable[[sqlite3.Connection], Found], wait_s: float | None) -> Found | None:
        database = self._connected()
        if database is None:
            return None
        with sqlite_explained("read", self.path):
            self._be_patient(database.connection, wait_s)
            return question(database.connection)

    def _change(self, work: Callable[[sqlite3.Connection], Found], wait_s: float | None = None) -> Found:
        """Do the work in one transaction, durable on return; for the holder of the lock."""
        try:
            return self._in_transaction(work, wait_s)
        except DamageError as damage:
            self._mend(str(damage))
        return self._after_mending(lambda: self._in_transaction(work, wait_s))

    def _in_transaction(self, work: Callable[[sqlite3.Connection], Found], wait_s: float | None) -> Found:
        database = self._connected()
        if database is None:
            _database.make(self.path, ())
            database = self._connected()
            assert database is not None
        if database.is_newer:
            raise StorageError(f"{self.path} {_NEWER}", "upgrade Backprop to write to it")
        connection = database.connection
        with sqlite_explained("write", self.path):
            self._be_patient(connection, wait_s)
            connection.execute("BEGIN IMMEDIATE")
            try:
                found = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # after a full disk it is undone already
                    connection.execute("ROLLBACK")
                raise
        return found

    def _be_patient(self, connection: sqlite3.Connection, wait_s: float | None) -> None:
        """Wait no longer than this for programs that lock the database itself."""
        wait_ms = round(1000 * (self._lock_wait_s if wait_s is None else wait_s))
        connection.execute(f"PRAGMA busy_timeout={wait_ms}")

    def _after_mending(self, retry: Callable[[], Found]) -> Found:
        try:
            return retry()
        except DamageError as damage:
            raise StorageError(f"{self.path} {damage}, and mending it did not help") from damage

    def _connected(self) -> Database | None:
        """Give a connection to the file that bears the name now; None when there is none and never was."""
        file = _database.file_of(self.path)
        if self._database is not None and self._database.file == file:
            return self._database
        self._let_go()
        if file is None:
            if self._folders.has_copies_of(self.path):
                raise DamageError("is missing")
            return None
        self._database = _database.connect(self.path, self._lock_wait_s)
        if self._database.note is not None:
            self._reading.note(self._database.note)
        if self._database.is_newer:
            self._reading.note(f"{self.path} {_NEWER}")
        return self._database

    def _let_go(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.connection.close()
        self._database = None

    def _mend(self, what: str) -> None:
        """Put the records together again; copies win, being written before the file is."""
        self._let_go()
        if self._is_sound_by_now():
            return
        copies, unreadable = self._folders.copies()
        source = f"{self._folders.root}/*/run.json"
        kept = ""
        with explained("mend", self.path):
            found = {**_salvaged(self.path), **copies}
            if os.path.lexists(self.path):
                kept = f"it is kept as {_database.keep_all_aside(self.path).name}, and "
                source = f"what is whole in it and from {source}"
        ids = list(reversed(newest_first(found)))
        _database.make(self.path, ((run_id, bytes(found[run_id])) for run_id in ids))
        self._reading.note(f"{self.path} {what}: {kept}{len(ids)} runs were put together again from {source}")
        for problem in unreadable:
            self._reading.note(problem)

    def _is_sound_by_now(self) -> bool:
        """Tell whether somebody else mended it while this process waited for the lock."""
        try:
            database = self._connected()
        except DamageError:
            return False
        if database is not None and _database.is_sound(database):
            return True
        self._let_go()
        return False


def _oldest_request(db: sqlite3.Connection, run_id: str) -> tuple[int, bytes] | None:
    question = "SELECT place, request FROM requests WHERE run_id = ? ORDER BY place LIMIT 1"
    found: tuple[int, bytes] | None = db.execute(question, (run_id,)).fetchone()
    return found


def _salvaged(path: Path) -> dict[str, msgspec.Raw]:
    """Take what is a record out of a damaged database."""
    found: dict[str, msgspec.Raw] = {}
    for run_id, line in _database.salvage(path).items() if path.is_file() else ():
        with suppress(DamageError):
            if is_run_id(run_id):
                found[run_id] = as_record(line)
    return found
