"""Keeping the newest checkpoints of a run and deleting the others, which happens only when a person asks for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from . import registry
from .checkpoints import ledger
from .checkpoints.ledger import Known
from .checkpoints.search import measure
from .errors import UsageError
from .holding import hold, make_folder, run_folder
from .interfaces import Storage
from .records import Record, RunRecord
from .removing import Checkpoint, removable, remove_checkpoint, with_checkpoints


class Surplus(Record, frozen=True):
    """What goes when only the newest checkpoints stay.

    `seen` are those that the script announced and that nobody has touched since, `unseen` all others: they lie where
    the run may have saved them, but nobody said so. `kept` are not deleted in any case; each says why.
    """

    seen: tuple[Checkpoint, ...] = ()
    unseen: tuple[Checkpoint, ...] = ()
    kept: tuple[Checkpoint, ...] = ()


def surplus(
    storage: Storage, home: Path, record: RunRecord, newest: Sequence[str], others: Sequence[str]
) -> Surplus:
    """Sort out what goes.

    :param newest: The paths that stay.
    :param others: The paths that do not; those that are not there any more are left out.
    :raises UsageError: for a run that is live.
    """
    changed = msgspec.structs.replace(record, checkpoints=tuple(others))
    (found,) = with_checkpoints(storage, removable(home, [changed]))
    remembered = ledger.read(run_folder(home, record.id))
    kept, seen, unseen = [], [], []
    for each in found.checkpoints:
        if each.why_kept is not None:
            kept.append(each)
        elif inside := _shares(each.path, newest):
            kept.append(msgspec.structs.replace(each, why_kept=f"has to do with {inside}, which stays"))
        elif _was_seen(each.path, remembered.get(str(each.path))):
            seen.append(each)
        else:
            unseen.append(each)
    return Surplus(seen=tuple(seen), unseen=tuple(unseen), kept=tuple(kept))


def _shares(path: Path, newest: Sequence[str]) -> str | None:
    """Name a checkpoint that stays and lies in this one, or is it by another name, or holds it."""
    real = Path(os.path.realpath(path))
    for other in newest:
        there = Path(os.path.realpath(other))
        if real == there or real in there.parents or there in real.parents:
            return other
    return None


def _was_seen(path: Path, entry: Known | None) -> bool:
    if entry is None or entry.learned != "announced":
        return False
    now = measure(path, ())
    return now is not None and (now.at_ms, now.size_bytes) == (entry.at, entry.size_bytes)


def delete(storage: Storage, home: Path, record: RunRecord, going: Sequence[Checkpoint]) -> None:
    """Delete checkpoints of a run, and forget them.

    :raises UsageError: when the run has become live meanwhile.
    :raises StorageError: when one cannot be deleted; those before it are.
    """
    lock = hold(make_folder(home, record.id))
    try:
        current = storage.get(record.id)
        if current is None or current.attempts != record.attempts:
            raise UsageError(f"run {record.id} has gone on meanwhile", "look again")
        gone = set()
        for each in going:
            remove_checkpoint(each.path)
            gone.add(str(each.path))
        left = tuple(path for path in current.checkpoints if path not in gone)
        storage.save(registry.changed(current, checkpoints=left, last_checkpoint=left[-1] if left else None))
        folder = run_folder(home, record.id)
        known = ledger.read(folder)
        ledger.write(folder, {path: entry for path, entry in known.items() if path not in gone})
    finally:
        os.close(lock)
