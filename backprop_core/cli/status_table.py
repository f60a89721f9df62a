"""`backprop status` on a terminal: tables with bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from backprop_core.records import Gpu
from backprop_core.units import escape, format_amount

if TYPE_CHECKING:
    from .status_ import Standing


def render(standing: Standing) -> None:
    """Print the machine, its GPUs, the slots, and the verdict."""
    console = Console(highlight=False)
    console.print(_machine(standing))
    if standing.weighed.machine.gpus:
        console.print(_gpus(standing.weighed.machine.gpus, standing.limits.gpu_max_temp_c))
    for holder in standing.holders:
        console.print(Text(f"  slot held by {escape(holder.name or '-')} ({holder.run_id})", style="dim"))
    for line in standing.reports:
        console.print(Text(escape(line)))
    verdict = standing.weighed.verdict
    if verdict.is_allowed:
        console.print(Text("✓ a run may start now", style="bold green"))
    else:
        console.print(Text("✗ no run starts now", style="bold red"))
    for reason in verdict.reasons:
        console.print(Text(f"  {escape(reason)}"))
    for warning in verdict.warnings:
        console.print(Text(f"  {escape(warning)}", style="yellow"))


def _machine(standing: Standing) -> Table:
    host, limits = standing.weighed.machine.host, standing.limits
    table = Table.grid(padding=(0, 2))
    load, free, total = host.cpu_load_per_core, host.ram_free_gb, host.ram_total_gb
    table.add_row("processor", "", escape(standing.cpu_model or "unknown"))
    table.add_row(
        "load",
        _bar(load, limits.max_cpu_load),
        f"{format_amount(load, 'per core', 2)}, limit {limits.max_cpu_load:g}",
    )
    used = None if free is None or total is None else total - free
    table.add_row(
        "RAM",
        _bar(used, total),
        f"{format_amount(free, 'GB')} available, {limits.min_free_ram_gb:g} GB needed",
    )
    count, most = len(standing.holders), limits.max_parallel
    table.add_row("slots", _bar(count, most), f"{count} of {most} in use, {standing.waiting} waiting")
    table.add_row("GPU probe", "", standing.probe or "none works")
    if standing.pressure:
        shown = ", ".join(f"{name} {value:g} %" for name, value in standing.pressure.items())
        table.add_row("pressure", "", shown)
    return table


def _gpus(gpus: tuple[Gpu, ...], most_c: float) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("GPU", "NAME", "MEMORY", "FREE", "TEMP", "BUSY", "NOTE"):
        table.add_column(column)
    for gpu in gpus:
        total, free = gpu.vram_total_mb, gpu.vram_free_mb
        used = None if total is None or free is None else total - free
        hot = gpu.temp_c is not None and gpu.temp_c >= most_c
        table.add_row(
            str(gpu.index),
            Text(escape(gpu.name or "unknown")),
            _bar(used, total),
            format_amount(free, "MB", 0),
            Text(format_amount(gpu.temp_c, "°C", 0), style="bold red" if hot else ""),
            format_amount(gpu.utilization_pct, "%", 0),
            Text(escape(gpu.note or "")),
        )
    return table


def _bar(value: float | None, total: float | None) -> ProgressBar | str:
    if value is None or not total:
        return ""
    return ProgressBar(total=total, completed=min(value, total), width=20)
