"""`backprop status` on a terminal: tables with bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from backprop_core.records import Gpu
from backprop_core.units import escape, format_amount

from .status_ import holder_cells, ordered, pressure, ram, usable_cores, waiter_cells

if TYPE_CHECKING:
    from .status_ import Standing


MARKS = {
    "passed": ("✓", "green"),
    "narrowed": ("·", "yellow"),
    "warned": ("!", "yellow"),
    "refused": ("✗", "red"),
}


def render(standing: Standing) -> None:
    """Print the machine, its GPUs, the slots, and the verdict."""
    Console(highlight=False).print(picture(standing))


def watch(looks: Iterable[Standing]) -> None:
    """Show one look after the other in the same place."""
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        for standing in looks:
            live.update(picture(standing), refresh=True)


def picture(standing: Standing) -> RenderableType:
    """Draw the machine, its GPUs, the slots, and the verdict with what every rule says."""
    parts: list[RenderableType] = [_machine(standing)]
    if standing.weighed.machine.gpus:
        parts += ["", _gpus(standing.weighed.machine.gpus, standing.limits.gpu_max_temp_c)]
    if standing.holders:
        parts += [
            "",
            _runs(("HOLDS A SLOT", "ID", "SINCE", "GPU MEMORY"), map(holder_cells, standing.holders)),
        ]
    if standing.waiting:
        parts += ["", _runs(("WAITS", "ID", "SINCE", "WHY"), map(waiter_cells, standing.waiting))]
    parts += [Text(escape(line)) for line in standing.reports]
    return Group(*parts, "", *_verdict(standing))


def _verdict(standing: Standing) -> Sequence[RenderableType]:
    verdict = standing.weighed.verdict
    is_free = verdict.is_allowed
    said = Table.grid(padding=(0, 1))
    for finding in ordered(verdict.findings):
        mark, style = MARKS[finding.kind]
        said.add_row(f"  [{style}]{mark}", Text(escape(finding.reason)))
    title = Text("a run may start now" if is_free else "no run starts now")
    title.stylize("bold green" if is_free else "bold red")
    return title, said


def _runs(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column in {"ID", "SINCE"})
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _machine(standing: Standing) -> Table:
    host, limits = standing.weighed.machine.host, standing.limits
    table = Table.grid(padding=(0, 2))
    load, free, total = host.cpu_load_per_core, host.ram_free_gb, host.ram_total_gb
    table.add_row("processor", usable_cores(host.cpu_count), Text(escape(standing.cpu_model or "unknown")))
    table.add_row(
        "load",
        _bar(load, limits.max_cpu_load),
        f"{format_amount(load, 'per core', 2)}, limit {limits.max_cpu_load:g}",
    )
    used = None if free is None or total is None else total - free
    table.add_row("RAM", _bar(used, total), ram(standing))
    count, most = len(standing.holders), limits.max_parallel
    table.add_row("slots", _bar(count, most), f"{count} of {most} in use, {len(standing.waiting)} waiting")
    table.add_row("GPU probe", "", standing.probe or "none works")
    if standing.pressure:
        table.add_row("pressure", "", pressure(standing.pressure))
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
