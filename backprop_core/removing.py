"""Removing runs: their records, what Backprop wrote into their folders, and their checkpoints only when asked.

A record names what its script has said, so a checkpoint's path is a stranger's word. One is removed only where it
lies in the run's working directory or folder, is this user's and no link, was written since the run began, and
is no other run's. What a script left in the run's folder beside that is its own, and stays.

A removal that is interrupted can be repeated: the record goes when the files have gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from .bundles import shards_of
from .errors import StorageError, UsageError
from .holding import hold, remove_files, run_folder
from .interfaces import Storage
from .records import RUN_FILES, Record, RunRecord
from .states import FINAL, LIVE, RunState

BATCH = 100  # runs that are held at once, each with an open file
_CLOCK_GRAIN_MS = 2000  # FAT notes even seconds


class Checkpoint(Record, frozen=True):
    """A checkpoint that is still there. `why_kept` says why it is left even when asked, in words after its path."""

    path: Path
    size_bytes: int = 0
    why_kept: str | None = None


class Removable(Record, frozen=True):
    """A run that may be removed, and those of its checkpoints that are still there, where they were looked for."""

    record: RunRecord
    folder: Path
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def removable_checkpoints(self) -> tuple[Checkpoint, ...]:
        """Those that go when the person asks for it."""
        return tuple(found for found in self.checkpoints if found.why_kept is None)


class Removed(Record, frozen=True):
    """A run that was removed. `left` are the names of what its script keeps in the run's folder."""

    record: RunRecord
    folder: Path
    freed_bytes: int = 0
    left: tuple[str, ...] = ()


def ended_before(storage: Storage, moment_ms: int, states: Collection[RunState]) -> list[RunRecord]:
    """Find runs that have ended before a moment, newest first.

    :param states: Which endings; () means every one.
    """
    chosen = storage.runs(states=states or FINAL)
    return [record for record in chosen if (record.end_time or record.start_time) < moment_ms]


def removable(home: Path, records: Iterable[RunRecord]) -> list[Removable]:
    """See that runs may be removed.

    :raises UsageError: when one of them is live.
    :raises StorageError: when a run's folder is not one.
    """
    found = []
    for record in records:
        if record.status in LIVE:
            raise UsageError(
                f"run {record.id} is {record.status}", f"stop it first: backprop stop {record.id}"
            )
        found.append(Removable(record=record, folder=run_folder(home, record.id)))
        _refuse_link(found[-1].folder)
    return found


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise StorageError(f"{folder} is no folder of its own", "move it away: nothing is removed through it")


# --- checkpoints --------------------------------------------------------------------------------


def with_checkpoints(storage: Storage, removables: Sequence[Removable]) -> list[Removable]:
    """Find the checkpoints of runs that are still there, and judge which of them may go."""
    going = {each.record.id for each in removables}
    owners = {
        os.path.realpath(_absolute(record, path)): record.id
        for record in storage.runs()
        if record.id not in going
        for path in record.checkpoints
    }
    return [_with_checkpoints(each, owners) for each in removables]


def _with_checkpoints(each: Removable, owners: Mapping[str, str]) -> Removable:
    import msgspec

    paths = dict.fromkeys(_absolute(each.record, path) for path in each.record.checkpoints)
    checkpoints = tuple(_judged(path, each, owners) for path in paths if path.exists() or path.is_symlink())
    return msgspec.structs.replace(each, checkpoints=checkpoints)


def _absolute(record: RunRecord, path: str) -> Path:
    return Path(record.cwd or ".", path)


def _judged(path: Path, each: Removable, owners: Mapping[str, str]) -> Checkpoint:
    try:
        why_kept = _why_kept(path, each, owners)
        size = sum(found.st_size for found in _statuses(path)) if why_kept is None else 0
    except OSError as error:
        why_kept, size = f"cannot be looked at ({error.strerror})", 0
    return Checkpoint(path=path, size_bytes=size, why_kept=why_kept)


def _why_kept(path: Path, each: Removable, owners: Mapping[str, str]) -> str | None:
    real = Path(os.path.realpath(path))
    places = [os.path.realpath(place) for place in (each.record.cwd, each.folder) if place]
    if path.is_symlink():
        return "is a link"
    if not any(real != Path(place) and real.is_relative_to(place) for place in places):
        return "lies outside the run's working directory and folder"
    if owner := owners.get(str(real)):
        return f"is a checkpoint of run {owner}, too"
    began_ms = each.record.start_time - _CLOCK_GRAIN_MS
    return next(filter(None, (_what_is_strange(found, began_ms) for found in _statuses(path))), None)


def _what_is_strange(found: os.stat_result, began_ms: int) -> str | None:
    """Say why a file or folder is not likely to be what a run saved since it began."""
    if found.st_uid != os.geteuid():
        return "is not yours alone"
    if stat.S_ISDIR(found.st_mode):
        return None
    if not stat.S_ISREG(found.st_mode):
        return "holds what is no file"
    return "holds what is older than the run" if found.st_mtime_ns / 1e6 < began_ms else None


def _statuses(path: Path) -> Iterator[os.stat_result]:
    yield path.lstat()
    for shard in shards_of(path):
        yield shard.lstat()
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            yield from _statuses(entry)


# --- removing -----------------------------------------------------------------------------------


def remove(storage: Storage, removables: Sequence[Removable]) -> list[Removed]:
    """Remove runs, and those of their checkpoints that were found and may go; gives those that were removed.

    One that another process has begun to hold meanwhile is passed over.

    :raises StorageError: when something cannot be removed; what was removed until then is.
    """
    removed: list[Removed] = []
    for first in range(0, len(removables), BATCH):
        removed += _remove(storage, removables[first : first + BATCH])
    return removed


def _remove(storage: Storage, batch: Sequence[Removable]) -> list[Removed]:
    with ExitStack() as locks:
        held = [each for each in batch if _is_held_by_us(each, locks) and not _is_live(storage, each)]
        before = [_size_of(each.folder) for each in held]
        for each in held:
            for checkpoint in each.removable_checkpoints:
                remove_checkpoint(checkpoint.path)
            remove_files(each.folder, RUN_FILES - {"lock"})  # which keeps others out until the record is gone
        _delete(storage, [each.record.id for each in held])
        for each in held:
            remove_files(each.folder)
    return [
        Removed(
            record=each.record,
            folder=each.folder,
            freed_bytes=size - _size_of(each.folder),
            left=tuple(_names_in(each.folder)),
        )
        for each, size in zip(held, before, strict=True)
    ]


def _size_of(folder: Path) -> int:
    try:
        return sum(found.st_size for found in _statuses(folder) if stat.S_ISREG(found.st_mode))
    except OSError:
        return 0


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _is_held_by_us(each: Removable, locks: ExitStack) -> bool:
    _refuse_link(each.folder)
    if not each.folder.exists():
        return True
    try:
        locks.callback(os.close, hold(each.folder))
    except UsageError:
        return False
    return True


def _is_live(storage: Storage, each: Removable) -> bool:
    current = storage.get(each.record.id)
    return current is not None and current.status in LIVE


def _delete(storage: Storage, run_ids: Sequence[str]) -> None:
    delete_many = getattr(storage, "delete_many", None)  # what a storage may have beyond its interface
    if delete_many is not None:
        delete_many(run_ids)
        return
    for run_id in run_ids:
        storage.delete(run_id)


def remove_checkpoint(path: Path) -> None:
    """Remove a file, with its data beside it where it is an index, or a folder; what it links to stays.

    :raises StorageError: when it cannot be removed.
    """
    import shutil

    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            for file in (path, *shards_of(path)):
                file.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"the checkpoint {path} cannot be removed: {error.strerror}") from error
