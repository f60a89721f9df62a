"""Keep run records in `experiments.json`, a file that anyone's JSON tools can read.

`storage = "json"` keeps it in Backprop's folder. `storage = "json:///path/file.json"` keeps the records
in that file, and `runs/<id>/run.json`, `metrics.jsonl` and `control` in a `runs` folder beside it.

A save holds the lock of `experiments.json.lock`, writes the record's copy into the run's folder, then the
whole file anew (temporary file, fsync, rename, fsync of the folder), and only then returns. A file that
does not parse is kept aside, and its records are put together again from its whole lines and the copies.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from backprop_core import Flaw, Intent, Progress, RunRecord, RunState, StorageBackend, hookimpl

from . import _flaws
from ._files import (
    DamageError,
    LockBusyError,
    explained,
    keep_aside,
    locked,
    read_plain_file,
    remove_leftovers,
    replace_file,
)
from ._journals import Journal, Journals
from ._places import place_of
from ._reading import Reading
from ._records import Glance, glances_at, join, newest_first, parse, refuse_newer, salvage, seal
from ._requests import Requests
from ._run_folders import RunFolders, claim
from ._series import Series

FILE_NAME = "experiments.json"
LOCK_WAIT_S = 10.0


@hookimpl
def backprop_storage_backend() -> StorageBackend:
    return JsonBackend()


class JsonBackend:
    """Records in a JSON file."""

    name = "json"
    schemes: tuple[str, ...] = ("json",)

    def open(self, url: str | None, home: Path) -> JsonStorage:
        """Open the store, and make its folder where it is missing.

        :raises StorageError: when the folder is another user's or may be written to by others, or
            when the URL is not that of a file.
        """
        return JsonStorage(*place_of(url, home, self.name, FILE_NAME))


class JsonStorage:
    """An open store. `problems` are sentences for the person about what was found damaged, each once."""

    def __init__(self, path: Path, folders: RunFolders, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self.path = path
        self._folders = folders
        self._reading = Reading(path, folders)
        self._journals = Journals(path, folders, self._reading.note)
        self._series = Series(folders)
        self._requests = Requests(folders, lock_wait_s)
        self._lock_wait_s = lock_wait_s
        self._has_swept = False
        self._seen: Seen | None = None
        self.problems = self._reading.problems

    def get(self, run_id: str) -> RunRecord | None:
        """Return the record, or None where there is none.

        :raises StorageError: when there is one that cannot be read, a newer version's for instance.
        """
        self._folders.path_of(run_id)
        raw = self._read().get(run_id)
        return None if raw is None else self._reading.decoded(run_id, bytes(raw))

    def save(self, record: RunRecord) -> None:
        """Add or replace the record; durable when it returns.

        Where somebody keeps the lock for longer than is waited for, the record is left in a journal in the
        run's folder, which readers see, and which the next writer adds to the file.
        """
        self.save_many((record,))

    def save_many(self, records: Sequence[RunRecord]) -> None:
        """Save records with one writing of the file: all of them or none."""
        lines = {record.id: seal(record) for record in records}
        for run_id in lines:
            self._folders.path_of(run_id)
        try:
            with self._locked():
                known, journals = self._load_to_change()
                _refuse_newer(known, records)
                for run_id, line in lines.items():
                    self._folders.save_copy(run_id, line)
                    known[run_id] = msgspec.Raw(line)
                self._write(known)
                self._journals.forget(journals)
        except LockBusyError as busy:
            with suppress(DamageError):
                _refuse_newer(self._load(), records)
            for run_id, line in lines.items():
                kept = self._journals.keep(run_id, line)
                self._reading.note(f"{busy.message}: run {run_id} waits in {kept.parent} for the next writer")

    def runs(self, *, states: Collection[RunState] = (), limit: int | None = None) -> Sequence[RunRecord]:
        """List runs, newest first; records that cannot be read are left out and named in `problems`."""
        records = self._read()
        found: list[RunRecord] = []
        glances = self._seen.glances() if self._seen and self._seen.records is records else None
        for run_id in newest_first(records, frozenset(states), glances):
            if limit is not None and len(found) >= limit:
                break
            record = self._reading.decoded_or_noted(run_id, bytes(records[run_id]))
            if record is not None:
                found.append(record)
        return found

    def flaws(self) -> list[Flaw]:
        """Find what is wrong with the store, and change nothing."""
        found = list(_flaws.in_journals(self._journals.waiting()))
        try:
            records = self._load()
        except DamageError as error:
            return [_flaws.damage(self.path, str(error), self._folders), *found]
        lines = ((run_id, bytes(raw)) for run_id, raw in records.items())
        return [*found, *_flaws.in_records(self.path, self._folders, lines), *_flaws.in_folder(self.path)]

    def meant_by(self, reference: str) -> Sequence[RunRecord]:
        """List runs that a name or the beginning of an id may mean, newest first; others may be among them."""
        written = msgspec.json.encode(reference)
        records = {
            run_id: raw
            for run_id, raw in self._read().items()
            if run_id.startswith(reference) or written in bytes(raw)
        }
        found = (self._reading.decoded_or_noted(one, bytes(records[one])) for one in newest_first(records))
        return [record for record in found if record is not None]

    def delete(self, run_id: str) -> None:
        """Forget the run and the files that Backprop made for it."""
        self.delete_many((run_id,))

    def delete_many(self, run_ids: Collection[str]) -> None:
        """Forget runs with one writing of the file."""
        for run_id in run_ids:
            self._folders.path_of(run_id)
        with self._locked():
            known, journals = self._load_to_change()
            found = [run_id for run_id in run_ids if known.pop(run_id, None) is not None]
            if found or journals:
                self._write(known)
            self._journals.forget(journals)
            self._journals.forget_runs(run_ids)
            for run_id in run_ids:
                self._series.let_go(run_id)
                self._folders.remove(run_id)

    def append_metrics(self, run_id: str, points: Sequence[Progress]) -> None:
        self._series.append(run_id, points)

    def metrics(self, run_id: str) -> Iterable[Progress]:
        return self._series.read(run_id)

    def post(self, run_id: str, intent: Intent) -> None:
        self._requests.post(run_id, intent)

    def take(self, run_id: str) -> Intent | None:
        return self._requests.take(run_id)

    def close(self) -> None:
        self._series.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(f"{self.path}.lock", self._lock_wait_s):
            yield

    def _load_to_change(self) -> tuple[dict[str, msgspec.Raw], list[Journal]]:
        """Load all records with waiting journals added, and the journals that may go once they are written."""
        waiting = self._journals.waiting()
        self._seen = None
        records = self._load_or_mend()
        for journal in self._merge(waiting, records):
            self._folders.save_copy(journal.run_id, journal.line or b"")
        return records, [journal for journal in waiting if journal.is_done_with]

    def _merge(self, waiting: Sequence[Journal], records: dict[str, msgspec.Raw]) -> list[Journal]:
        """Put those journals that know more in the place of what is stored, and give them."""
        merged: list[Journal] = []
        for journal in waiting:
            stored = records.get(journal.run_id)
            if journal.is_ahead_of(None if stored is None else bytes(stored)):
                records[journal.run_id] = msgspec.Raw(journal.line or b"")
                merged.append(journal)
        return merged

    def _read(self) -> dict[str, msgspec.Raw]:
        """Read without the lock, for a rename is seen whole or not at all; damage is mended under it."""
        waiting = self._journals.waiting()
        state = state_of(self.path)
        if self._seen is None or state is None or self._seen.state != state:
            try:
                self._seen = Seen(self._load(), state)
            except DamageError:
                with self._locked():
                    self._seen = Seen(self._load_or_mend(), None)
        if not waiting:
            return self._seen.records
        records = dict(self._seen.records)
        self._merge(waiting, records)
        return records

    def _load_or_mend(self) -> dict[str, msgspec.Raw]:
        try:
            return self._load()
        except DamageError as damage:
            return self._mend(str(damage))

    def _load(self) -> dict[str, msgspec.Raw]:
        with explained("read", self.path):
            text = read_plain_file(self.path)
        if text is not None:
            return parse(text)
        if self._folders.has_copies_of(self.path):
            raise DamageError("is missing")
        return {}

    def _mend(self, what: str) -> dict[str, msgspec.Raw]:
        """Put the records together again; copies win, being written before the file is."""
        copies, unreadable = self._folders.copies()
        source = f"{self._folders.root}/*/run.json"
        kept = ""
        with explained("mend", self.path):
            found = {**salvage(self._damaged_text()), **copies}
            if os.path.lexists(self.path):
                kept = f"it is kept as {keep_aside(self.path).name}, and "
                source = f"what is whole in it and from {source}"
        records = {run_id: found[run_id] for run_id in reversed(newest_first(found))}
        self._write(records)
        self._reading.note(
            f"{self.path} {what}: {kept}{len(records)} runs were put together again from {source}"
        )
        for problem in unreadable:
            self._reading.note(problem)
        return records

    def _damaged_text(self) -> bytes:
        try:
            return read_plain_file(self.path) or b""
        except DamageError:
            return b""

    def _write(self, records: dict[str, msgspec.Raw]) -> None:
        with explained("write", self.path):
            if not self._has_swept:
                remove_leftovers(self.path)
                claim(self.path)
                self._has_swept = True
            replace_file(self.path, join(records))


class Seen:
    """What was read last, and of what file: commands read more than once, and seldom does anything change meanwhile.

    It is let go of before a change, which reads anew.
    """

    def __init__(self, records: dict[str, msgspec.Raw], state: tuple[int, ...] | None) -> None:
        self.records = records
        self.state = state
        self._glances: list[Glance] | None = None

    def glances(self) -> list[Glance]:
        """Look at each record once."""
        if self._glances is None:
            self._glances = glances_at(self.records)
        return self._glances


def state_of(path: Path) -> tuple[int, ...] | None:
    """Tell a file from what replaces it and from what it was before; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _refuse_newer(known: dict[str, msgspec.Raw], records: Sequence[RunRecord]) -> None:
    for record in records:
        refuse_newer(known.get(record.id), record)
