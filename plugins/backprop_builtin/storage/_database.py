"""A SQLite file of run records: how it is made, opened, checked, and read when it is damaged.

Nothing here opens the file but SQLite itself: closing any other descriptor of it would drop SQLite's locks.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from backprop_core import StorageError, is_on_network, open_private

from ._files import (
    OURS_ALONE,
    DamageError,
    explained,
    keep_aside,
    remove_leftovers,
    sync_folder,
)
from ._locks import LockBusyError
from ._records import glance
from ._run_folders import claim

SCHEMA_VERSION = 1
APPLICATION_ID = int.from_bytes(b"Bprp")
SIBLINGS = ("-wal", "-shm", "-journal")
_INT64 = 2**63
_TABLES = """
CREATE TABLE runs (
    place INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    start_time INTEGER NOT NULL,
    state TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX runs_by_start ON runs (start_time, place);
CREATE INDEX runs_by_state ON runs (state, start_time, place);
CREATE TABLE requests (place INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, request TEXT NOT NULL);
CREATE INDEX requests_by_run ON requests (run_id, place);
"""
_UPSERT = """
INSERT INTO runs (id, start_time, state, record) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET start_time = excluded.start_time, state = excluded.state, record = excluded.record
"""


class Database(NamedTuple):
    """An open database. `note` says what the person has to know about it; `file` tells it from its successor."""

    connection: sqlite3.Connection
    file: tuple[int, int]
    version: int
    note: str | None = None

    @property
    def is_newer(self) -> bool:
        """Tell whether a version made it that knows more than this one does."""
        return self.version > SCHEMA_VERSION


def file_of(path: Path) -> tuple[int, int] | None:
    """Tell which file bears the name now; None when there is none."""
    with explained("look at", path):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
    return found.st_dev, found.st_ino


@contextmanager
def sqlite_explained(doing: str, path: Path) -> Iterator[None]:
    """Turn what SQLite refuses into an error that names the file.

    :raises DamageError: when the file is no sound database.
    :raises LockBusyError: when another program keeps it locked.
    :raises StorageError: for everything else, a full disk for instance.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise DamageError(f"is no sound database ({error})") from error
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise LockBusyError(
                f"cannot {doing} {path}: another program keeps the database locked",
                f"`fuser -v {path}` names it: end what it does there, or the program",
            ) from error
        raise StorageError(f"cannot {doing} {path}: {error}") from error


# --- opening ------------------------------------------------------------------------------------


def connect(path: Path, wait_s: float) -> Database:
    """Open the database that is there, durable on commit.

    :param wait_s: How long to wait for other programs' locks, in seconds.
    :raises DamageError: when it is none of ours, whole.
    :raises StorageError: when it is another user's or another program's.
    """
    file = _refuse_foreign_files(path)
    with sqlite_explained("open", path):
        connection, note = _open(path, wait_s)
        try:
            version = _check(connection, path)
            _choose_journal(connection, path)
        except BaseException:
            connection.close()
            raise
    return Database(connection, file, version, note)


def _refuse_foreign_files(path: Path) -> tuple[int, int]:
    """See that the database and the files that SQLite keeps beside it are this user's, for this user alone."""
    for name in (str(path), *(f"{path}{ending}" for ending in SIBLINGS)):
        with explained("look at", name):
            try:
                found = os.lstat(name)
            except FileNotFoundError:
                continue
        if stat.S_ISLNK(found.st_mode) or (name != str(path) and not stat.S_ISREG(found.st_mode)):
            raise StorageError(f"{name} is no file of its own", "move it away, and try again")
        if not stat.S_ISREG(found.st_mode):
            raise DamageError("is not a file")
        if found.st_uid != os.geteuid():
            raise StorageError(f"{name} belongs to user {found.st_uid}, and this is user {os.geteuid()}")
        if found.st_mode & 0o077:
            with suppress(OSError):
                os.chmod(name, OURS_ALONE)
    file = file_of(path)
    if file is None:
        raise DamageError("is missing")
    return file


def _open(path: Path, wait_s: float) -> tuple[sqlite3.Connection, str | None]:
    try:
        return _opened(path, "mode=rw", wait_s), None
    except sqlite3.OperationalError:
        if os.access(path.parent, os.W_OK):
            raise
    # A write-ahead log needs a file beside the database, which cannot be made here.
    try:
        return _opened(path, "mode=ro", wait_s), None
    except sqlite3.OperationalError:
        note = f"{path} cannot be written, and what {path.name}-wal holds is not shown"
        has_log = os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0
        return _opened(path, "immutable=1", wait_s), note if has_log else None


def _opened(path: Path, how: str, wait_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{how}",
        uri=True,
        timeout=wait_s,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.text_factory = bytes
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA secure_delete=ON")  # what is removed is not to be found in the file
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """See that the database is one of run records, and give its version."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        raise DamageError("is empty")
    is_ours = _number(connection, "PRAGMA application_id") == APPLICATION_ID
    version = _number(connection, "PRAGMA user_version")
    if is_ours and b"runs" not in tables and version <= SCHEMA_VERSION:
        raise DamageError("has lost its table of runs")
    if not is_ours and {b"runs", b"requests"} <= tables:
        raise DamageError("bears the mark of another program")
    if not is_ours:
        raise StorageError(f"{path} is a database of another program", "name another file in `storage`")
    return version


def _number(connection: sqlite3.Connection, question: str) -> int:
    return int(connection.execute(question).fetchone()[0])


def _choose_journal(connection: sqlite3.Connection, path: Path) -> None:
    """Make every commit outlive a power cut.

    :source: SQLite's write-ahead log needs memory that all its users share, so one machine; with FULL it is
        synced at each commit. DELETE needs EXTRA, for the removal of its journal to be durable.
    """
    has_log = connection.execute("PRAGMA journal_mode").fetchone()[0] == b"wal"
    wants_log = not is_on_network(path)
    if has_log != wants_log and os.access(path.parent, os.W_OK):
        # While others read or write it stays as it is, and the next who opens it tries again.
        with suppress(sqlite3.OperationalError):
            mode = connection.execute(f"PRAGMA journal_mode={'WAL' if wants_log else 'DELETE'}").fetchone()[0]
            has_log = mode == b"wal"
    connection.execute(f"PRAGMA synchronous={'FULL' if has_log else 'EXTRA'}")
    if sys.platform == "darwin":  # fsync stops at the disk's own cache there
        connection.execute("PRAGMA fullfsync=ON")
        connection.execute("PRAGMA checkpoint_fullfsync=ON")


def is_sound(database: Database) -> bool:
    """Read all of the database and tell whether it holds together."""
    with suppress(sqlite3.Error):
        return bool(database.connection.execute("PRAGMA integrity_check(1)").fetchall() == [(b"ok",)])
    return False


# --- records ------------------------------------------------------------------------------------


def put(connection: sqlite3.Connection, run_id: str, line: bytes) -> None:
    """Add or replace a record; one that is replaced keeps its place among those that started together."""
    seen = glance(line)
    connection.execute(_UPSERT, (run_id, column(seen.start_time), seen.status or "", line.decode()))


def column(moment: float) -> int:
    """Fit a moment into a column, which has 64 bits."""
    return min(max(int(moment), -_INT64), _INT64 - 1)


# --- making and mending -------------------------------------------------------------------------


def make(path: Path, records: Iterable[tuple[str, bytes]]) -> None:
    """Put a new database in the place of what is there, whole or not at all; for the holder of its lock."""
    remove_leftovers(path)
    temporary = path.parent / f".{path.name}.{os.urandom(6).hex()}.tmp"
    try:
        with explained("make", path):
            os.close(open_private(temporary, os.O_WRONLY | os.O_EXCL))
        with sqlite_explained("make", path):
            _fill(temporary, records)
        with explained("make", path):
            for ending in SIBLINGS:  # a log of the old file would be taken for the new one's
                with suppress(FileNotFoundError):
                    os.unlink(f"{path}{ending}")
            os.rename(temporary, path)
            sync_folder(path.parent)
        claim(path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _fill(path: Path, records: Iterable[tuple[str, bytes]]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=OFF")  # nobody sees the file before it is whole
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        for run_id, line in records:
            put(connection, run_id, line)
        connection.execute("COMMIT")


def keep_all_aside(path: Path) -> Path:
    """Give a damaged database, and its log, a second name that says when it was found."""
    kept = keep_aside(path)
    for ending in ("-wal", "-journal"):
        with suppress(OSError):
            if os.lstat(f"{path}{ending}").st_size:
                os.link(f"{path}{ending}", f"{kept}{ending}", follow_symlinks=False)
    return kept


def salvage(path: Path) -> dict[str, bytes]:
    """Take out of a damaged database the texts of records that can still be reached, from both ends."""
    found: dict[str, bytes] = {}
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error), closing(_opened(path, "mode=ro", 1.0)) as connection:
            for run_id, line in connection.execute(
                f"SELECT id, record FROM runs NOT INDEXED ORDER BY place {order}"  # noqa: S608 - one of two words
            ):
                if isinstance(run_id, bytes) and isinstance(line, bytes):
                    found.setdefault(run_id.decode(errors="replace"), line)
    return found
