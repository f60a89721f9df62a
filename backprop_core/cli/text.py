"""How records are written on a screen: short, aligned, and without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from backprop_core.clock import as_datetime, now_ms
from backprop_core.forecast import TOTAL_EPOCHS, time_boxes_left
from backprop_core.records import RunRecord
from backprop_core.redaction import HIDDEN, is_secret_name, without_secrets
from backprop_core.units import escape, format_duration


def presentable(text: str) -> str:
    """Make a sentence or a cell fit to be shown: control characters escaped, and secrets hidden."""
    return escape(without_secrets(text))


def shown_environment(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield NAME=value lines, with secrets hidden."""
    for name, value in sorted(environment.items()):
        yield f"{name}={HIDDEN if is_secret_name(name) else without_secrets(value)}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows as lines with aligned columns; texts are made presentable."""
    safe = [[presentable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in safe) for column in range(len(safe[0]))]
    for row in safe:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def number(value: float | None, digits: int = 4) -> str:
    """Write a number shortly; unknown is a dash."""
    return "-" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def run_time_s(record: RunRecord) -> float:
    """Return how long a run's attempts took together, in seconds."""
    if not record.attempts:
        return max(0, (record.end_time or now_ms()) - record.start_time) / 1000
    took_ms = ((attempt.end or now_ms()) - attempt.start for attempt in record.attempts)
    return sum(max(0, each) for each in took_ms) / 1000  # somebody may have set the clock back


def place(record: RunRecord, *, with_total: bool = False) -> Iterator[str]:
    """Yield where the training stands: its step, or its epoch where it tells no step."""
    told = record.metrics
    if record.last_step is not None:
        reached, total = f"step {record.last_step}", told.get("totalSteps")
    elif (epoch := told.get("epoch")) is not None:
        reached, total = f"epoch {epoch:g}", told.get(TOTAL_EPOCHS)
    else:
        return
    yield f"{reached}/{total:g}" if with_total and total else reached


LIST_COLUMNS = ("ID", "NAME", "STATE", "TIME", "STEP", "LOSS", "CHECKPOINTS", "LEFT", "STARTED")


def boxes_left(record: RunRecord) -> str:
    """Write how many more time boxes a run takes; a dash where that is not known or nothing is left to be done."""
    count = time_boxes_left(record)
    return f"{count} box{'es' * (count != 1)}" if count else "-"


def list_row(record: RunRecord, *, is_unknown: bool = False) -> tuple[str, ...]:
    """Return a run's row of `backprop list`.

    :param is_unknown: Whether the state is what another machine or container has left on record.
    """
    return (
        record.id,
        record.name or "-",
        f"{record.status}?" if is_unknown else str(record.status),
        format_duration(run_time_s(record)),
        number(record.last_step),
        number(record.last_loss),
        str(record.checkpoint_count),
        boxes_left(record),
        as_datetime(record.start_time).astimezone().strftime("%Y-%m-%d %H:%M"),
    )
