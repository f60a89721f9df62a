"""Start only with enough RAM; pause, and then stop, a run when the machine is about to run out of it."""

from __future__ import annotations

from backprop_core import Machine, Passed, Pause, Refusal, RunRequest, Warn, hookimpl

LOW_SHARE = 0.02
LOW_GB = 0.25
STILL_LOW_S = 30.0


@hookimpl
def backprop_admit(request: RunRequest, machine: Machine) -> Refusal | Warn | Passed:
    free, needed = machine.host.ram_free_gb, request.limits.min_free_ram_gb
    if free is None and request.limits.max_parallel == 1:
        return Warn("available RAM cannot be measured; starting because this run is to be alone")
    if free is None:
        return Refusal("available RAM cannot be measured; start one run alone with --max-parallel 1")
    text = f"RAM: {free:.1f} GB available, {needed:g} GB needed (minFreeRamGB)"
    return Refusal(text) if free < needed else Passed(text)


@hookimpl
def backprop_govern(machine: Machine) -> Pause | None:
    free, total = machine.host.ram_free_gb, machine.host.ram_total_gb
    if free is None or total is None:
        return None
    least = max(total * LOW_SHARE, LOW_GB)
    if free >= least:
        return None
    # A stopped process frees no RAM, so a shortage that lasts can only be ended by stopping the run.
    return Pause(f"RAM: {free:.2f} GB available, {least:.2f} GB is the least", stop_after_s=STILL_LOW_S)
