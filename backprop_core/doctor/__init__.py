"""What is wrong in Backprop's folder, and what puts it right.

Each check looks and changes nothing; what it finds says what would be done, and the repair of that kind does it,
having looked again under the lock that fits. A person decides which of the two happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from backprop_core.errors import BackpropError

from .findings import Finding, Patient, Treated, treat
from .folders import check_folders, check_run_folders, repair_folder, repair_run_folder
from .machine import check_locks, check_queue, check_slots, repair_queue
from .records import check_storage, repair_storage
from .runs import check_orphans, check_runs, repair_gone, repair_run

__all__ = ["Finding", "Patient", "Treated", "treat_all", "treat_folders"]

Check = Callable[[Patient], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (
    check_storage,
    check_runs,
    check_orphans,
    check_queue,
    check_slots,
    check_locks,
    check_run_folders,
)
REPAIRS: dict[str, Callable[[Patient, Finding], None]] = {
    "storage": repair_storage,
    "lost run": repair_run,
    "gone machine": repair_gone,
    "orphans": repair_run,
    "queue": repair_queue,
    "run folder": repair_run_folder,
}


def treat_folders(home: Path, *, is_dry: bool) -> Iterator[Treated]:
    """Check the folders, which comes first, and repair them unless it is dry."""
    for finding in list(check_folders(home)):
        yield treat(finding, partial(repair_folder, finding), is_dry=is_dry)


def treat_all(patient: Patient, *, is_dry: bool) -> Iterator[Treated]:
    """Make each check, and repair what it finds unless it is dry; the next check sees the repair."""
    for check in CHECKS:
        try:
            findings = list(check(patient))
        except (BackpropError, OSError) as error:
            findings = [Finding(kind="doctor", where=str(patient.home), what=f"cannot be looked at: {error}")]
        for finding in findings:
            repair = REPAIRS.get(finding.kind)
            yield treat(finding, repair and partial(repair, patient, finding), is_dry=is_dry)
        is_unreadable = is_dry and check is check_storage and any(finding.repair for finding in findings)
        if is_unreadable:  # to ask it for records would mend it
            return
