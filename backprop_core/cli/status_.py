"""`backprop status`: the machine and the verdict for a run started now, or one run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from backprop_core import recovery, registry
from backprop_core.admission import Admission, Weighed
from backprop_core.clock import now_ms
from backprop_core.governor import Finding
from backprop_core.host import cpu_model, read_pressure
from backprop_core.identity import host_name
from backprop_core.locks import private_folder
from backprop_core.opening import Opened, close, open_all
from backprop_core.records import Gpu, Limits, Record, RunRequest, Script
from backprop_core.slots import Holder, Waiter, host_folder
from backprop_core.states import LIVE
from backprop_core.units import escape, format_amount, format_duration

from .app import say
from .declared import Command, Given, argument, option
from .list_ import print_json, tell_problems
from .options import Json, Set, base_ask
from .run_status import show_run

WATCH_EVERY_S = 2.0
WORDS = {"passed": "ok", "narrowed": "ok on others", "warned": "warning", "refused": "refused"}
RANK = {"refused": 0, "warned": 1}


class Standing(Record, frozen=True):
    """How this machine stands for a run started now."""

    weighed: Weighed
    limits: Limits
    probe: str | None
    holders: tuple[Holder, ...]
    waiting: tuple[Waiter, ...]
    cpu_model: str | None
    pressure: Mapping[str, float] | None
    reports: tuple[str, ...] = ()


def status(
    given: Given,
    run: Annotated[str | None, argument("A run; none: the machine.", metavar="RUN")] = None,
    json_: Json = False,
    watch: Annotated[bool, option("--watch", help="Show it again every 2 seconds, until Ctrl-C.")] = False,
    set_: Set = None,
    *,
    flags: Mapping[str, str],
) -> int:
    opened = open_all(base_ask(given, flags=flags, assignments=tuple(set_ or ())), os.environ)
    try:
        if run is not None:
            recovery.mark_lost(opened.storage, opened.home, host_name())
            record = registry.find(opened.storage, run)
            is_live = record.status in LIVE
            held_by = recovery.describe(record, opened.home, host_name()) if is_live else None
            show_run(record, held_by=held_by, as_json=json_)
            return 0
        door = _door(opened)
        if watch and not json_:
            return _watch(door, opened)
        standing = look(door, opened)
        tell_problems(opened.storage)
    finally:
        close(opened)
    if json_:
        print_json(as_json(standing))
    else:
        show(standing)
    return 0


COMMAND = Command(status, takes_settings=True)


def _door(opened: Opened) -> Admission:
    for part in (opened.home, opened.home / "hosts"):
        private_folder(part)
    request = RunRequest(script=Script(path=Path()), limits=opened.resolved.limits)
    return Admission(request, opened.resolved.settings, opened.plugins, opened.home, os.environ, say)


def look(door: Admission, opened: Opened) -> Standing:
    """Measure and judge."""
    weighed = door.look()
    lines = []
    for answer in opened.plugins.ask("backprop_status_report", settings=opened.resolved.settings):
        said = str(answer.failure) if answer.failure else answer.value
        lines += [said] if isinstance(said, str) else list(said)
    return Standing(
        weighed=weighed,
        limits=opened.resolved.limits,
        probe=door.probe.name if door.probe else None,
        holders=door.slots.holders(),
        waiting=door.slots.waiting(),
        cpu_model=cpu_model(host_folder(opened.home) / "cpu.json"),
        pressure=read_pressure(),
        reports=tuple(lines),
    )


def as_json(standing: Standing) -> dict[str, Any]:
    """Build the document of `status --json`; unknown values are null."""
    host, verdict = standing.weighed.machine.host, standing.weighed.verdict
    return {
        "host": {
            "ram_free_gb": host.ram_free_gb,
            "ram_total_gb": host.ram_total_gb,
            "cpu_load_per_core": host.cpu_load_per_core,
            "cpu_count": host.cpu_count,
            "cpu_model": standing.cpu_model,
        },
        "gpus": [_gpu_json(gpu) for gpu in standing.weighed.machine.gpus or ()],
        "probe": standing.probe,
        "slots": {"used": len(standing.holders), "max": standing.limits.max_parallel},
        "verdict": {"allowed": verdict.is_allowed, "reasons": list(verdict.reasons)},
    }


def _gpu_json(gpu: Gpu) -> dict[str, Any]:
    fields = ("index", "uuid", "name", "vram_free_mb", "vram_total_mb", "temp_c", "utilization_pct")
    return {field: getattr(gpu, field) for field in fields}


def show(standing: Standing) -> None:
    """Print the machine, with bars on a terminal."""
    if sys.stdout.isatty():
        from .status_table import render

        render(standing)
        return
    for line in plain_lines(standing):
        print(line)


def plain_lines(standing: Standing) -> list[str]:
    """Write the machine as plain lines."""
    machine, verdict = standing.weighed.machine, standing.weighed.verdict
    host, limits = machine.host, standing.limits
    lines = [
        f"processor  {escape(standing.cpu_model or 'unknown')}, {usable_cores(host.cpu_count)}",
        f"load       {format_amount(host.cpu_load_per_core, 'per core', 2)} (limit {limits.max_cpu_load:g})",
        f"RAM        {ram(standing)}",
    ]
    if standing.pressure:
        lines.append(f"pressure   {pressure(standing.pressure)}")
    lines.append(f"GPU probe  {standing.probe or 'none works'}")
    lines += [gpu_line(gpu) for gpu in machine.gpus or ()]
    used, most, waiting = len(standing.holders), limits.max_parallel, len(standing.waiting)
    lines.append(f"slots      {used} of {most} in use, {waiting} waiting")
    lines += [f"  held by  {'  '.join(holder_cells(holder))}" for holder in standing.holders]
    lines += [f"  waiting  {'  '.join(waiter_cells(waiter))}" for waiter in standing.waiting]
    lines += [escape(line) for line in standing.reports]
    lines.append(f"verdict    {'a run may start now' if verdict.is_allowed else 'no run starts now'}")
    lines += [f"  {WORDS[finding.kind]}: {escape(finding.reason)}" for finding in ordered(verdict.findings)]
    return lines


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Sort what the rules say, objections first."""
    return sorted(findings, key=lambda finding: RANK.get(finding.kind, 2))


def usable_cores(count: float | None) -> str:
    """Write how many cores this user's processes may use; a quota may leave a part of one."""
    return "unknown cores" if count is None else f"{count:.3g} cores usable"


def ram(standing: Standing) -> str:
    """Write how much RAM is available, of how much, and how much a run needs."""
    host = standing.weighed.machine.host
    free, total = format_amount(host.ram_free_gb, "GB"), format_amount(host.ram_total_gb, "GB")
    return f"{free} of {total} available, {standing.limits.min_free_ram_gb:g} GB needed"


def pressure(shares: Mapping[str, float]) -> str:
    """Write how much of the last 10 s something waited for each resource."""
    return ", ".join(f"{name} {share:g} %" for name, share in shares.items())


def holder_cells(holder: Holder) -> tuple[str, str, str, str]:
    """Describe who holds a slot: name, id, since when, and which GPU memory it was promised."""
    gpus = ", ".join(f"GPU {gpu.index}: {gpu.reserved_mb:.0f} MB" for gpu in holder.gpus)
    return (escape(holder.name or "-"), escape(holder.run_id), _since(holder.since_ms), gpus or "no GPU")


def waiter_cells(waiter: Waiter) -> tuple[str, str, str, str]:
    """Describe who waits: name, id, since when, and what stood in the way on arrival."""
    name, why = escape(waiter.name or "-"), escape(waiter.reason or "")
    return (name, escape(waiter.run_id), _since(waiter.since_ms), why)


def _since(moment_ms: int | None) -> str:
    return "?" if moment_ms is None else f"for {format_duration((now_ms() - moment_ms) / 1000)}"


def gpu_line(gpu: Gpu) -> str:
    """Write one GPU in one line."""
    parts = [
        f"{format_amount(gpu.vram_free_mb, 'MB', 0)} free of {format_amount(gpu.vram_total_mb, 'MB', 0)}",
        format_amount(gpu.temp_c, "C", 0),
        f"{format_amount(gpu.utilization_pct, '%', 0)} busy",
    ]
    note = f" [{gpu.note}]" if gpu.note else ""
    return f"GPU {gpu.index}      {escape(gpu.name or 'unknown')}: {', '.join(parts)}{escape(note)}"


def _watch(door: Admission, opened: Opened) -> int:
    try:
        if sys.stdout.isatty():
            from .status_table import watch

            watch(_looks(door, opened))
        for standing in _looks(door, opened):
            print("\n".join([*plain_lines(standing), ""]), flush=True)
    except KeyboardInterrupt:
        pass
    return 0


def _looks(door: Admission, opened: Opened) -> Iterator[Standing]:
    while True:
        yield look(door, opened)
        time.sleep(WATCH_EVERY_S)
