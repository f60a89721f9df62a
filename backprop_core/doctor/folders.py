"""Folders: of Backprop itself, before anything in them is used, and of runs that no record tells of."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from backprop_core.identity import RUN_ID
from backprop_core.locks import is_held, open_lock_file, try_lock

from .findings import Finding, Patient
from .runs import status_of

FRESH_S = 60.0
_PRIVATE = 0o700
_NEVER_BEGAN = frozenset({"lock", "time-box.json", "control", "agent.log", "stopping"})


def check_folders(home: Path) -> Iterator[Finding]:
    """See that every folder that Backprop makes is this user's, for this user alone, and can be used."""
    for folder in _folders(home):
        found = folder.lstat()
        if folder.is_symlink() or not folder.is_dir():
            yield Finding(
                kind="folder", where=str(folder), what="is no folder", hint="move it out of the way"
            )
        elif found.st_uid != os.geteuid():
            what = f"belongs to user {found.st_uid}, and this is user {os.geteuid()}"
            yield Finding(kind="folder", where=str(folder), what=what, hint="give it back, or move it away")
        elif found.st_mode & 0o777 != _PRIVATE:
            is_open = found.st_mode & 0o077
            what = f"is {'open to other users' if is_open else 'closed to you'} (mode {found.st_mode & 0o777:04o})"
            yield Finding(kind="folder", where=str(folder), what=what, repair=f"give it mode {_PRIVATE:04o}")


def _folders(home: Path) -> Iterator[Path]:
    yield home
    for part in (home / "runs", home / "hosts"):
        if os.path.lexists(part):
            yield part
    yield from (entry for entry in entries(home / "runs") if RUN_ID.fullmatch(entry.name) and entry.is_dir())
    for host in entries(home / "hosts"):
        yield host
        yield from (part for part in (host / "slots", host / "queue") if os.path.lexists(part))


def entries(folder: Path) -> list[Path]:
    """List a folder; one that is closed to us, which is a finding of its own, looks empty."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def repair_folder(finding: Finding) -> None:
    """Close a folder to others, and open it to its owner."""
    folder = Path(finding.where)
    if not folder.is_symlink() and folder.lstat().st_uid == os.geteuid():
        folder.chmod(_PRIVATE)


def check_run_folders(patient: Patient) -> Iterator[Finding]:
    """Find folders of runs that no record tells of."""
    known = {record.id for record in patient.storage.runs()}
    for folder in entries(patient.home / "runs"):
        if folder.name in known or not RUN_ID.fullmatch(folder.name) or not folder.is_dir():
            continue
        if is_held(folder / "lock") or _is_fresh(folder) or status_of(patient.storage, folder.name) != "none":
            continue
        names = {entry.name for entry in entries(folder)}
        if names <= _NEVER_BEGAN:
            what = "is the folder of a run that never began"
            yield Finding(kind="run folder", where=str(folder), what=what, repair="remove it")
        else:
            what = "is the folder of a run that this storage does not know"
            hint = "another storage may (`--storage`); if none does, look at what it holds and remove it"
            yield Finding(kind="run folder", where=str(folder), what=what, hint=hint, is_note=True)


def _is_fresh(folder: Path) -> bool:
    """Tell whether a run may be about to begin in it."""
    return time.time() - folder.stat().st_mtime < FRESH_S


def repair_run_folder(patient: Patient, finding: Finding) -> None:
    """Remove the folder of a run that never began."""
    folder = Path(finding.where)
    descriptor = open_lock_file(folder / "lock")
    try:
        if not try_lock(descriptor) or status_of(patient.storage, folder.name) != "none":
            return
        for entry in entries(folder):
            if entry.name in _NEVER_BEGAN:
                entry.unlink()
        folder.rmdir()
    finally:
        os.close(descriptor)
