"""Start only while there is room to write records and output."""

from __future__ import annotations

from backprop_core import Machine, Refusal, hookimpl

LEAST_MB = 100.0


@hookimpl
def backprop_admit(machine: Machine) -> Refusal | None:
    free = machine.disk_free_mb
    if free is None or free >= LEAST_MB:
        return None
    return Refusal(f"disk: {free:.0f} MB free where records are written, {LEAST_MB:g} MB needed")
