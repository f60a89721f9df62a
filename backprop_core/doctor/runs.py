"""Runs that nobody has hold of, and processes that runs have left."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal

from backprop_core import recovery
from backprop_core.errors import StorageError
from backprop_core.holding import run_folder
from backprop_core.identity import RUN_ID, environment_of, name_of, processes
from backprop_core.interfaces import Storage
from backprop_core.locks import is_held
from backprop_core.records import RunRecord
from backprop_core.recovery import Grasp, Marks, end_leftovers, grasp, last_holder, leftovers, lock_of, reap
from backprop_core.registry import ended
from backprop_core.states import LIVE, RunState

from .findings import Finding, Patient

SHOWN = 3
MARK_UNSEEN = "mark it lost, without a signal to anybody"


def check_runs(patient: Patient) -> Iterator[Finding]:
    """Find runs whose record says that they are live, and which nobody has hold of."""
    for record in patient.storage.runs(states=LIVE):
        known = grasp(record, patient.home, patient.host)
        if known in (Grasp.LOST, Grasp.ORPHANED):
            yield _without_supervisor(patient, record)
        elif known is Grasp.UNKNOWN:
            yield _unknown(patient, record)


def _without_supervisor(patient: Patient, record: RunRecord) -> Finding:
    left = _left_by(run_folder(patient.home, record.id))
    what = f"run {record.id} is recorded as {record.status}, and its supervisor and keeper are gone"
    if not left:
        return Finding(kind="lost run", where=record.id, what=what, repair="mark it lost")
    return Finding(
        kind="orphans",
        where=record.id,
        what=f"{what}; {_are_left(left)}",
        repair="end them, and mark the run lost",
    )


def _unknown(patient: Patient, record: RunRecord) -> Finding:
    if record.host is not None and record.host != patient.host:
        what = f"run {record.id} is recorded as {record.status} on machine {record.host}"
        if record.host == patient.gone:
            what += ", which is gone, you say"
            return Finding(kind="gone machine", where=record.id, what=what, repair=MARK_UNSEEN)
        hint = (
            "whether it is can be told there alone: run `backprop doctor` there; "
            f"if that machine is gone: {recovery.if_gone(record.host)}"
        )
        return Finding(kind="unknown run", where=record.id, what=what, hint=hint, is_note=True)
    what = (
        f"run {record.id} is recorded as {record.status} in another container, and nobody holds its lock; "
        "what it may have left there cannot be seen from here"
    )
    return Finding(kind="lost run", where=record.id, what=what, repair=MARK_UNSEEN)


def repair_gone(patient: Patient, finding: Finding) -> None:
    """Mark a run lost whose machine a person says is gone."""
    with lock_of(run_folder(patient.home, finding.where)) as (_, is_ours):
        if not is_ours:
            raise StorageError("somebody holds it", "it goes on: stop it first")
        record = patient.storage.get(finding.where)
        if record is not None and record.status in LIVE and record.host == patient.gone:
            patient.storage.save(ended(record, RunState.LOST, reason=f"its machine {record.host} is gone"))


def _are_left(left: Collection[int]) -> str:
    return f"{listed(left)} {'is' if len(left) == 1 else 'are'} left of it"


def check_orphans(patient: Patient) -> Iterator[Finding]:
    """Find processes of runs that have ended, or that no record tells of."""
    for run_id in _runs_with_processes(patient.home):
        if status_of(patient.storage, run_id) == "live" or is_held(run_folder(patient.home, run_id) / "lock"):
            continue
        left = _left_by(run_folder(patient.home, run_id))
        if left:
            what = f"run {run_id} is over, and {_are_left(left)}"
            yield Finding(kind="orphans", where=run_id, what=what, repair="end them")


def repair_run(patient: Patient, finding: Finding) -> None:
    """End what a run has left, and mark it lost if it is recorded as live."""
    folder = run_folder(patient.home, finding.where)
    if status_of(patient.storage, finding.where) == "live":
        reap(patient.storage, patient.home, finding.where)
    else:
        with lock_of(folder) as (_, is_ours):
            if is_ours:
                end_leftovers(folder, last_holder(folder), is_held_by_us=True)
    left = _left_by(folder)
    if left and not is_held(folder / "lock"):
        raise StorageError(f"{listed(left)} do not end", "they may hang on a disk that does not answer")


def _left_by(folder: Path) -> list[int]:
    holder = last_holder(folder)
    if holder is None or not holder.is_here:
        return []
    return [process.pid for process in leftovers(Marks(folder=folder, holder=holder))]


def _runs_with_processes(home: Path) -> list[str]:
    """Name the runs of this home that processes say they belong to."""
    begin = b"BACKPROP_RUN_DIR=" + os.fsencode(home / "runs") + b"/"
    found = set()
    for pid in processes():
        for text in environment_of(pid):
            if text.startswith(begin) and RUN_ID.fullmatch(name := os.fsdecode(text[len(begin) :])):
                found.add(name)
    return sorted(found)


def status_of(storage: Storage, run_id: str) -> Literal["live", "over", "none"]:
    """Tell what the storage knows of a run; what it cannot read counts as live."""
    try:
        record = storage.get(run_id)
    except StorageError:
        return "live"
    if record is None:
        return "none"
    return "live" if record.status in LIVE else "over"


def listed(pids: Iterable[int]) -> str:
    """Name processes by number and command line."""
    pids = list(pids)
    shown = ", ".join(f"{pid} ({name_of(pid)})" for pid in pids[:SHOWN])
    more = f" and {len(pids) - SHOWN} more" if len(pids) > SHOWN else ""
    return f"process{'es' if len(pids) > 1 else ''} {shown}{more}"
