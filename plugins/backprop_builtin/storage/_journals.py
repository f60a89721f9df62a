"""Records that could not be added to a store because somebody kept its lock: kept until somebody can.

Each lies in `runs/<id>/journal-<time>-<random>.json`, and a mark of the same token in the folder
`<store>.journals` says that it is there. No name is used twice, and a journal is written before its mark:
whoever holds the store's lock removes exactly what was merged, while others may leave more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from backprop_core import RunRecord, StorageError, open_private

from ._files import (
    DamageError,
    explained,
    make_private_folder,
    read_plain_file,
    replace_file,
    sync_folder,
)
from ._records import is_intact, is_newer, read_record
from ._run_folders import JOURNAL, RunFolders, is_run_id

_SEPARATOR = "~"
_TRIES = 5


class Journal(msgspec.Struct, frozen=True):
    """A record that waits to be added. `line` is None when it is gone, `record` when it cannot be read."""

    mark: str
    path: Path
    line: bytes | None = None
    record: RunRecord | None = None

    @property
    def run_id(self) -> str:
        """The run it belongs to."""
        return _run_of(self.mark)

    @property
    def is_done_with(self) -> bool:
        """Tell whether it may go once what was read is in the store; what cannot be read is left alone."""
        return self.line is None or self.record is not None

    def is_ahead_of(self, stored: bytes | None) -> bool:
        """Tell whether it knows more of the run than the stored record does."""
        if self.record is None or stored is None:
            return self.record is not None
        if is_newer(stored, self.record):
            return False
        try:
            return self.record.standing > read_record(self.run_id, stored).standing
        except StorageError:
            return True


class Journals:
    """The journals of one store. `note` hears of those that cannot be read."""

    def __init__(self, store: Path, folders: RunFolders, note: Callable[[str], None]) -> None:
        self._marks = Path(f"{store}.journals")
        self._folders = folders
        self._note = note

    def keep(self, run_id: str, line: bytes) -> Path:
        """Keep a record; durable on return, and seen by whoever reads the store from then on."""
        mark = f"{run_id}{_SEPARATOR}{time.time_ns():x}-{os.urandom(4).hex()}"
        path = self._path(mark)
        self._folders.make(run_id)
        with explained("write", path):
            replace_file(path, (line, b"\n"))
        with explained("write", self._marks):
            self._leave(mark)
        return path

    def _leave(self, mark: str) -> None:
        for turns_left in reversed(range(_TRIES)):
            make_private_folder(self._marks)
            try:
                os.close(open_private(self._marks / mark, os.O_WRONLY | os.O_EXCL))
                sync_folder(self._marks)
            except FileNotFoundError:  # the last journal was merged in between, and the folder removed
                if not turns_left:
                    raise
            else:
                return

    def waiting(self) -> list[Journal]:
        """Read what waits, in the order it was left.

        To miss none, ask before reading the store: what was merged in between is in there.
        """
        waiting = [self._read(mark) for mark in self._waiting_marks()]
        for journal in waiting:
            if not journal.is_done_with:
                self._note(f"{journal.path} cannot be read and is left as it is")
        return waiting

    def _waiting_marks(self) -> list[str]:
        with explained("read", self._marks):
            try:
                names = os.listdir(self._marks)
            except FileNotFoundError:
                return []
        return sorted((n for n in names if is_run_id(n.partition(_SEPARATOR)[0])), key=_token)

    def _read(self, mark: str) -> Journal:
        path = self._path(mark)
        with explained("read", path):
            try:
                line = read_plain_file(path)
            except DamageError:
                line = b""
        return Journal(mark, path, line and line.rstrip(b"\n"), _record_in(_run_of(mark), line))

    def forget(self, merged: Iterable[Journal]) -> None:
        """Remove journals; only for the holder of the store's lock."""
        for journal in merged:
            for path in (journal.path, self._marks / journal.mark):
                with explained("remove", path), suppress(FileNotFoundError):
                    os.unlink(path)
        with suppress(OSError):  # others may have left more meanwhile
            os.rmdir(self._marks)

    def forget_runs(self, run_ids: Collection[str]) -> None:
        """Remove the journals of these runs, readable or not; only for the holder of the store's lock."""
        self.forget(Journal(m, self._path(m)) for m in self._waiting_marks() if _run_of(m) in run_ids)

    def _path(self, mark: str) -> Path:
        return Path(self._folders.path_of(_run_of(mark), f"{JOURNAL}{_token(mark)}.json"))


def _run_of(mark: str) -> str:
    return mark.partition(_SEPARATOR)[0]


def _token(mark: str) -> str:
    return mark.partition(_SEPARATOR)[2]


def _record_in(run_id: str, line: bytes | None) -> RunRecord | None:
    if line is None or not is_intact(line.rstrip(b"\n")):
        return None
    try:
        return read_record(run_id, line)
    except StorageError:
        return None
