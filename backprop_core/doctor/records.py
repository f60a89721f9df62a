"""What a storage says of itself."""

from __future__ import annotations

from collections.abc import Iterator

from backprop_core.errors import StorageError

from .findings import Finding, Patient


def check_storage(patient: Patient) -> Iterator[Finding]:
    """Ask the storage what is wrong with it."""
    ask = getattr(patient.storage, "flaws", None)
    for flaw in ask() if ask else ():
        yield Finding(kind="storage", where=flaw.where, what=flaw.what, repair=flaw.repair, hint=flaw.hint)


def repair_storage(patient: Patient, finding: Finding) -> None:
    """Let the storage mend itself, as it does with the next save."""
    save_many = getattr(patient.storage, "save_many", None)
    if save_many is not None:
        save_many(())
    if any(finding.where == left.where and finding.what == left.what for left in check_storage(patient)):
        raise StorageError("it is as it was")
