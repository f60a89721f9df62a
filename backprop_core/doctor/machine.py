"""The slots, the queue and the locks of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backprop_core.holding import holder_of, run_folder
from backprop_core.identity import RUN_ID, look_at, processes
from backprop_core.locks import is_held, locked
from backprop_core.slots import Slots, host_place

from .findings import Finding, Patient
from .folders import entries
from .runs import listed


def check_queue(patient: Patient) -> Iterator[Finding]:
    """Find places in the queue whose waiter is gone."""
    folder = _machine_folder(patient)
    tickets = [entry for entry in entries(folder / "queue") if entry.name.isdecimal()] if folder else []
    nascent = [folder / "queue.nascent"] if folder and os.path.lexists(folder / "queue.nascent") else []
    for ticket in (*tickets, *nascent):
        if not is_held(ticket):
            what = "is a place in the queue whose waiter is gone"
            yield Finding(kind="queue", where=str(ticket), what=what, repair="remove it")


def repair_queue(patient: Patient, finding: Finding) -> None:
    """Clear a dead waiter's place away."""
    ticket = Path(finding.where)
    folder = _machine_folder(patient)
    assert folder is not None
    with locked(folder / "queue.lock", 10):
        if not is_held(ticket):
            ticket.unlink(missing_ok=True)


def check_slots(patient: Patient) -> Iterator[Finding]:
    """Find slots that somebody holds though the keeper that they were given to is gone, and nobody ends its run."""
    folder = _machine_folder(patient)
    if folder is None:
        return
    for name, holder in Slots(folder).held().items():
        keeper = look_at(holder.pid) if holder.pid else None
        if holder.pid is None or (keeper is not None and not keeper.is_dead):
            continue
        if RUN_ID.fullmatch(holder.run_id) and is_supervised(run_folder(patient.home, holder.run_id)):
            continue
        slot = folder / "slots" / name
        who = openers(slot)
        what = f"slot {name} is held for run {holder.run_id}, whose keeper is gone, by "
        hint = "end what holds it, or wait for it" if who else None
        yield Finding(kind="slot", where=str(slot), what=what + (listed(who) or "nobody visible"), hint=hint)


def is_supervised(folder: Path) -> bool:
    """Tell whether somebody who has signed for a run, and is alive, holds it."""
    holder = holder_of(folder)
    return holder is not None and not holder.is_gone


def check_locks(patient: Patient) -> Iterator[Finding]:
    """Find locks that everybody waits for, held by a process that stands still."""
    folder = _machine_folder(patient)
    files = sorted(patient.home.glob("*.lock"))
    files += [folder / "admission.lock", folder / "queue.lock"] if folder else []
    for file in files:
        if not is_held(file):
            continue
        still = [pid for pid in openers(file) if (seen := look_at(pid)) is not None and seen.state == "T"]
        if still:
            hint = f"let it go on with `kill -CONT {still[0]}`, or end it"
            what = f"everybody waits for this lock, which {listed(still)} holds and stands still"
            yield Finding(kind="lock", where=str(file), what=what, hint=hint)


def openers(file: Path) -> list[int]:
    """List the processes that have a file open, as far as this user may see."""
    found = []
    name = os.path.realpath(file)
    for pid in processes():
        if pid == os.getpid():
            continue
        with suppress(OSError):
            descriptors = os.listdir(f"/proc/{pid}/fd")
            if any(_target(pid, descriptor) == name for descriptor in descriptors):
                found.append(pid)
    return found


def _target(pid: int, descriptor: str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return None


def _machine_folder(patient: Patient) -> Path | None:
    """Return this machine's folder; None where nothing has run yet."""
    folder = host_place(patient.home)
    return folder if (folder / "slots").is_dir() and (folder / "queue").is_dir() else None
