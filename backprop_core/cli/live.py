"""The live panel on a terminal: state, time left, progress, GPUs, below the script's own output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Self, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.console import Group as RichGroup
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from backprop_core.clock import now_s
from backprop_core.forecast import in_words, time_boxes_left
from backprop_core.records import RunRecord
from backprop_core.units import escape, format_duration
from backprop_core.view import Snapshot

from .colours import STATE_STYLE
from .harmless import harmless
from .outlet import text_outlet
from .text import number, place, presentable
from .views import PlainView

SPEED_OVER_S = 10.0
BAR_COLUMNS = 20
GAP_COLUMNS = 2
MOST_NAME_COLUMNS = 30


class Raw:
    """Text for the terminal as it is, already made harmless."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield Segment(self._text)


class Cells:
    """Cells in one line. Where they do not fit the bar goes first, then the last ones."""

    def __init__(self, *cells: Text | ProgressBar) -> None:
        self._cells = cells

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        cells = list(self._cells)
        while len(cells) > 1 and self._columns(cells) > options.max_width:
            bar = next((cell for cell in cells if isinstance(cell, ProgressBar)), None)
            cells.remove(bar or cells[-1])
        grid = Table.grid(padding=(0, GAP_COLUMNS))
        for _ in cells:
            grid.add_column(no_wrap=True)
        grid.add_row(*cells)
        yield grid

    @staticmethod
    def _columns(cells: Sequence[Text | ProgressBar]) -> int:
        widths = [cell.cell_len if isinstance(cell, Text) else BAR_COLUMNS for cell in cells]
        return sum(widths) + GAP_COLUMNS * (len(cells) - 1)


class LiveView(PlainView):
    """Shows the script's whole lines above, and below them its unfinished line and how the run stands.

    Once the terminal is gone nothing more is drawn: no run ends because nobody can see it.
    """

    every_s = 0.25

    def __init__(self) -> None:
        super().__init__()
        self._is_gone = False
        self._terminal = text_outlet(sys.stdout)
        self._console = Console(file=cast("IO[str] | None", self._terminal), highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stderr=False)
        self._rest = b""
        self._snapshot: Snapshot | None = None
        self._waits: RenderableType | None = None
        self._speed = Speed()

    def _draw(self, draw: Callable[[], object]) -> None:
        if self._is_gone:
            return
        try:
            draw()
        except OSError:
            self._is_gone = True

    def __enter__(self) -> Self:
        self._draw(self._live.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self._rest:
            self._print(self._rest + b"\n")
        self._rest = b""
        self._snapshot = self._waits = None
        self._draw(lambda: self._live.update(Text(""), refresh=True))
        self._draw(self._live.stop)
        if self._terminal:
            self._terminal.finish()

    def is_behind(self) -> bool:
        return self._terminal is not None and self._terminal.is_behind()

    def tell(self, text: str) -> None:
        line = Text(f"backprop: {presentable(text)}", style="bold")
        self._draw(lambda: self._console.print(line, soft_wrap=True))

    def output(self, data: bytes) -> None:
        whole, end, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest[-65536:]
        if end:
            self._print(whole + end)

    def show(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._speed.note(snapshot.record.last_step, now_s())
        self._refresh()

    def waiting(self, reasons: Sequence[str], place: int, total: int) -> None:
        lines = [Text(f"waiting, place {place} of {total}", style="bold cyan")]
        lines += [Text(f"  {escape(reason)}") for reason in reasons]
        self._waits = RichGroup(*lines) if reasons else None
        self._refresh()

    def suspend(self) -> None:
        self._draw(self._live.stop)

    def resume(self) -> None:
        self._draw(self._live.start)

    def _print(self, output: bytes) -> None:
        text = harmless(output.decode("utf-8", "replace").replace("\r\n", "\n"))
        self._draw(lambda: self._console.print(Raw(text), end="", soft_wrap=True))

    def _refresh(self) -> None:
        if self.is_behind():
            return
        parts: list[RenderableType] = []
        if self._rest:
            last = self._rest.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
            parts.append(Text.from_ansi(harmless(last), no_wrap=True, overflow="crop"))
        if self._waits is not None:
            parts.append(self._waits)
        if self._snapshot is not None:
            parts.append(panel(self._snapshot, self._speed.steps_per_s))
        self._draw(lambda: self._live.update(RichGroup(*parts), refresh=True))


class Speed:
    """Steps a second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []
        self.steps_per_s: float | None = None

    def note(self, step: int | None, at_s: float) -> None:
        """Take in the step reached."""
        if step is None:
            return
        self._seen = [seen for seen in self._seen if at_s - seen[0] <= SPEED_OVER_S]
        self._seen.append((at_s, step))
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        if last_s > first_s and last > first:
            self.steps_per_s = (last - first) / (last_s - first_s)


def panel(snapshot: Snapshot, steps_per_s: float | None) -> RenderableType:
    """Draw how a run stands, in one line, or two with GPUs."""
    record = snapshot.record
    limit_s = record.limits.max_run_minutes * 60
    now = snapshot.paused_s if snapshot.paused_s is not None else now_s()
    left_s = max(0.0, snapshot.deadline_s - now)
    total_s = max(limit_s, snapshot.deadline_s - snapshot.started_s)
    state = snapshot.phase or str(record.status)
    name = Text(escape(record.name or record.id), style="bold")
    name.truncate(MOST_NAME_COLUMNS, overflow="ellipsis")
    line = Cells(
        Text(f"● {state}", style=STATE_STYLE.get(record.status, "bold")),
        name,
        ProgressBar(total=total_s, completed=total_s - left_s, width=BAR_COLUMNS),
        Text(f"{format_duration(left_s)} left"),
        *(Text(text) for text in progress(record, steps_per_s)),
        *(Text(text) for text in [in_words(time_boxes_left(record, left_s=left_s))] if text),
    )
    return RichGroup(line, *gpu_lines(snapshot))


def progress(record: RunRecord, steps_per_s: float | None) -> Iterator[str]:
    """Yield what is known of the training's progress."""
    yield from place(record, with_total=True)
    if record.last_loss is not None:
        yield f"loss {number(record.last_loss)}"
    if steps_per_s:
        yield f"{steps_per_s:.3g} steps/s"
    if record.checkpoints:
        yield f"{record.checkpoint_count} ckpt"


def gpu_lines(snapshot: Snapshot) -> list[Text]:
    """Write memory and temperature of the run's GPUs, a line each."""
    own = {gpu.uuid or str(gpu.index) for gpu in snapshot.record.gpus}
    lines = []
    for gpu in snapshot.machine.gpus or () if snapshot.machine else ():
        if gpu.id not in own:
            continue
        used = None
        if gpu.vram_total_mb is not None and gpu.vram_free_mb is not None:
            used = gpu.vram_total_mb - gpu.vram_free_mb
        memory = (
            "memory unknown"
            if used is None
            else f"{used / 1024:.1f} of {(gpu.vram_total_mb or 0) / 1024:.1f} GB"
        )
        heat = "" if gpu.temp_c is None else f", {gpu.temp_c:g} °C"
        lines.append(Text(f"  GPU {gpu.index} {escape(gpu.name or '')}: {memory}{heat}", style="dim"))
    return lines
