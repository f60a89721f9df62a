"""Keep run records in `experiments.json`, a file that anyone's JSON tools can read.

`storage = "json"` keeps it in Backprop's folder. `storage = "json:///path/file.json"` keeps the records
in that file, and `runs/<id>/run.json`, `metrics.jsonl` and `control` in a `runs` folder beside it.

A save writes the record's copy, then holds the lock of `experiments.json.lock` while it puts the copy into the run's
folder and replaces the whole file (another file, fsync, rename). It returns once the folders are flushed, too, for
which the next writer need not wait. Other runs' lines are copied as they are, found through `experiments.json.index`;
where the other file has them already, since it was `experiments.json` once before, they are not written again. A file
that does not parse is kept aside, and its records are put together again from its whole lines and the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from backprop_core import Flaw, Intent, Progress, RunRecord, RunState, StorageBackend, hookimpl

from ._contents import Changes, Contents, Parsed
from ._files import DamageError
from ._journals import Journal, Journals
from ._locks import LockBusyError, locked_in_turn
from ._places import place_of
from ._reading import Reading
from ._records import refuse_newer, seal
from ._records_file import RecordsFile
from ._requests import Requests
from ._run_folders import RunFolders
from ._series import Series

FILE_NAME = "experiments.json"
LOCK_WAIT_S = 10.0
Found = TypeVar("Found")


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
        self._file = RecordsFile(path, folders, self._locked, self._reading.note)
        self.problems = self._reading.problems

    def get(self, run_id: str) -> RunRecord | None:
        """Return the record, or None where there is none.

        :raises StorageError: when there is one that cannot be read, a newer version's for instance.
        """
        self._folders.path_of(run_id)
        line = self._look(lambda contents: contents.line(run_id))
        return None if line is None else self._reading.decoded(run_id, line)

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

        def add(contents: Contents, _: Collection[str]) -> Changes:
            _refuse_newer(contents, records)
            put_copies()
            return lines

        try:
            with self._folders.new_copies(lines) as put_copies:
                with self._locked():
                    self._change(add)
                self._file.sync()
        except LockBusyError as busy:
            with suppress(DamageError):
                _refuse_newer(self._file.whole(), records)
            for run_id, line in lines.items():
                kept = self._journals.keep(run_id, line)
                self._reading.note(f"{busy.message}: run {run_id} waits in {kept.parent} for the next writer")

    def runs(self, *, states: Collection[RunState] = (), limit: int | None = None) -> Sequence[RunRecord]:
        """List runs, newest first; records that cannot be read are left out and named in `problems`."""
        return self._look(lambda contents: self._chosen(contents, frozenset(states), limit))

    def _chosen(self, contents: Contents, states: frozenset[str], limit: int | None) -> list[RunRecord]:
        found: list[RunRecord] = []
        for run_id in contents.newest_first(states):
            if limit is not None and len(found) >= limit:
                break
            record = self._reading.decoded_or_noted(run_id, contents.line(run_id) or b"")
            if record is not None:
                found.append(record)
        return found

    def flaws(self) -> list[Flaw]:
        """Find what is wrong with the store, and change nothing."""
        from . import _flaws

        found = list(_flaws.in_journals(self._journals.waiting()))
        try:
            lines = self._file.whole().lines()
        except DamageError as error:
            return [_flaws.damage(self.path, str(error), self._folders), *found]
        return [*found, *_flaws.in_records(self.path, self._folders, lines), *_flaws.in_folder(self.path)]

    def meant_by(self, reference: str) -> Sequence[RunRecord]:
        """List runs that a name or the beginning of an id may mean, newest first; others may be among them."""
        written = msgspec.json.encode(reference)

        def choose(contents: Contents) -> list[RunRecord]:
            lines = {
                one: line for one, line in contents.lines() if one.startswith(reference) or written in line
            }
            found = (
                self._reading.decoded_or_noted(one, lines[one])
                for one in contents.newest_first(frozenset())
                if one in lines
            )
            return [record for record in found if record is not None]

        return self._look(choose)

    def delete(self, run_id: str) -> None:
        """Forget the run and the files that Backprop made for it."""
        self.delete_many((run_id,))

    def delete_many(self, run_ids: Collection[str]) -> None:
        """Forget runs with one writing of the file."""
        for run_id in run_ids:
            self._folders.path_of(run_id)

        def remove(contents: Contents, merged: Collection[str]) -> Changes | None:
            known = [one for one in run_ids if one in merged or contents.line(one) is not None]
            return dict.fromkeys(known) if known or merged else None

        with self._locked():
            self._change(remove)
            self._file.sync()
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
        self._file.close()
        self._series.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with locked_in_turn(f"{self.path}.lock", self._lock_wait_s):
                yield
        finally:
            self._file.close_old()

    def _look(self, question: Callable[[Contents], Found]) -> Found:
        """Answer from what is stored and from what waits to be."""
        waiting = self._journals.waiting()

        def answer(contents: Contents) -> Found:
            merged = _merged(waiting, contents)
            if not merged:
                return question(contents)
            lines = {**dict(contents.lines()), **merged}
            return question(Parsed({run_id: msgspec.Raw(line) for run_id, line in lines.items()}))

        return self._file.ask(answer)

    def _change(self, choose: Callable[[Contents, Collection[str]], Changes | None]) -> None:
        """Write what waits in journals, and then what is chosen; for the holder of the lock.

        :param choose: Told what is stored, and which runs' journals are added to it; None is no need to write.
        """
        waiting = self._journals.waiting()

        def choose_all(contents: Contents) -> Changes | None:
            merged = _merged(waiting, contents)
            chosen = choose(contents, merged)
            if chosen is None:
                return None
            for run_id in merged.keys() - chosen.keys():
                self._folders.save_copy(run_id, merged[run_id])
            return {**merged, **chosen}

        self._file.change(choose_all)
        if waiting:
            self._file.sync()  # else a power cut might leave neither the journals nor what they were added to
        self._journals.forget(journal for journal in waiting if journal.is_done_with)


def _merged(waiting: Sequence[Journal], contents: Contents) -> dict[str, bytes]:
    """Give those journals that know more than what is stored."""
    merged: dict[str, bytes] = {}
    for journal in waiting:
        if journal.is_ahead_of(merged.get(journal.run_id) or contents.line(journal.run_id)):
            merged[journal.run_id] = journal.line or b""
    return merged


def _refuse_newer(contents: Contents, records: Sequence[RunRecord]) -> None:
    for record in records:
        refuse_newer(contents.line(record.id), record)
