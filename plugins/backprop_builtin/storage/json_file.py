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
from contextlib import contextmanager
from pathlib import Path

import msgspec

from backprop_core import Intent, Progress, RunRecord, RunState, StorageBackend, StorageError, hookimpl

from ._files import (
    DamageError,
    explained,
    keep_aside,
    locked,
    make_private_folder,
    read_plain_file,
    refuse_shared_folder,
    remove_leftovers,
    replace_file,
)
from ._records import is_intact, is_newer, join, newest_first, parse, read_record, salvage, seal
from ._requests import Requests
from ._run_folders import RunFolders
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
        path = Path(os.path.abspath(home / FILE_NAME)) if url is None else _path_in(url)
        with explained("make", path.parent):
            make_private_folder(path.parent)
        refuse_shared_folder(path.parent)
        return JsonStorage(_followed(path), RunFolders(path.parent / "runs"))


def _path_in(url: str) -> Path:
    from urllib.parse import unquote

    text = unquote(url.removeprefix("json:").removeprefix("//"))
    if not text.startswith("/") or text.endswith("/") or "\0" in text or Path(text).is_dir():
        raise StorageError(
            f"storage is {url!r}", "name a file by its full path: json:///home/me/experiments.json"
        )
    return Path(os.path.normpath(text))


def _followed(path: Path) -> Path:
    """Follow a link that this user made to a file of their own: writing replaces the file, not the link."""
    with explained("look at", path):
        if not path.is_symlink():
            return path
        target = Path(os.path.realpath(path))
        owners = {found.lstat().st_uid for found in (path, target) if os.path.lexists(found)}
    if owners != {os.geteuid()}:
        raise StorageError(f"{path} is a link that involves another user's file", "remove the link")
    refuse_shared_folder(target.parent)
    return target


class JsonStorage:
    """An open store. `problems` are sentences for the person about what was found damaged, each once."""

    def __init__(self, path: Path, folders: RunFolders, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self.path = path
        self.problems: list[str] = []
        self._folders = folders
        self._series = Series(folders)
        self._requests = Requests(folders, lock_wait_s)
        self._lock_wait_s = lock_wait_s
        self._has_swept = False

    def get(self, run_id: str) -> RunRecord | None:
        """Return the record, or None where there is none.

        :raises StorageError: when there is one that cannot be read, a newer version's for instance.
        """
        self._folders.path_of(run_id)
        raw = self._read().get(run_id)
        return None if raw is None else self._decoded(run_id, raw)

    def save(self, record: RunRecord) -> None:
        line = seal(record)
        self._folders.path_of(record.id)
        with self._locked():
            records = self._load_or_mend()
            known = records.get(record.id)
            if known is not None and is_newer(known, record):
                raise StorageError(
                    f"run {record.id} was recorded by a newer Backprop and is left as it is",
                    "upgrade Backprop, or give the run another id",
                )
            self._folders.save_copy(record.id, line)
            records[record.id] = msgspec.Raw(line)
            self._write(records)

    def runs(self, *, states: Collection[RunState] = (), limit: int | None = None) -> Sequence[RunRecord]:
        """List runs, newest first; records that cannot be read are left out and named in `problems`."""
        records = self._read()
        found: list[RunRecord] = []
        for run_id in newest_first(records, frozenset(states)):
            if limit is not None and len(found) >= limit:
                break
            try:
                self._folders.path_of(run_id)
                found.append(self._decoded(run_id, records[run_id]))
            except StorageError as error:
                self._note(f"{self.path}: {error.message}")
        return found

    def delete(self, run_id: str) -> None:
        """Forget the run and the files that Backprop made for it."""
        self._folders.path_of(run_id)
        with self._locked():
            records = self._load_or_mend()
            if records.pop(run_id, None) is not None:
                self._write(records)
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

    def _decoded(self, run_id: str, raw: msgspec.Raw) -> RunRecord:
        text = bytes(raw)
        record = read_record(run_id, text)
        if not is_intact(text):
            self._note(
                f"{self.path}: record {run_id} does not match its checksum, it was edited or damaged; "
                f"what Backprop wrote last is in {self._folders.path_of(run_id)}/run.json"
            )
        return record

    def _read(self) -> dict[str, msgspec.Raw]:
        """Read without the lock, for a rename is seen whole or not at all; damage is mended under it."""
        try:
            return self._load()
        except DamageError:
            with self._locked():
                return self._load_or_mend()

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
        if self._folders.has_copies():
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
        self._note(f"{self.path} {what}: {kept}{len(records)} runs were put together again from {source}")
        for problem in unreadable:
            self._note(problem)
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
                self._has_swept = True
            replace_file(self.path, join(records))

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
