"""Start only while the processors have room."""

from __future__ import annotations

from backprop_core import Machine, Passed, Refusal, RunRequest, Warn, hookimpl


@hookimpl
def backprop_admit(request: RunRequest, machine: Machine) -> Refusal | Warn | Passed:
    load, most = machine.host.cpu_load_per_core, request.limits.max_cpu_load
    if load is None and request.limits.max_parallel == 1:
        return Warn("CPU load cannot be measured; starting because this run is to be alone")
    if load is None:
        return Refusal("CPU load cannot be measured; start one run alone with --max-parallel 1")
    text = f"CPU: load {load:.2f} per core, {most:g} is the most (maxCpuLoad)"
    return Refusal(text) if load > most else Passed(text)
