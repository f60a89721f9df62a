"""Start only while there is room to write records and output."""

from __future__ import annotations

from backprop_core import Machine, Passed, Refusal, hookimpl

LEAST_MB = 100.0


@hookimpl
def backprop_admit(machine: Machine) -> Refusal | Passed | None:
    free = machine.disk_free_mb
    if free is None:
        return None
    text = f"disk: {free:.0f} MB free where records are written, {LEAST_MB:g} MB needed"
    return Refusal(text) if free < LEAST_MB else Passed(text)
