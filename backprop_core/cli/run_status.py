"""`backprop status RUN`: all that is known of one run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from backprop_core.clock import as_datetime
from backprop_core.forecast import in_words, time_boxes_left
from backprop_core.records import Attempt, RunRecord
from backprop_core.redaction import redacted
from backprop_core.units import escape, format_duration

from .list_ import print_json
from .text import aligned, number, run_time_s

SHOWN_CHECKPOINTS = 5


def show_run(record: RunRecord, *, held_by: str | None, as_json: bool) -> None:
    """Print a run, as its record or for reading.

    :param held_by: Who has hold of it, in words; None for a run that has ended.
    """
    if as_json:
        print_json(record.to_dict())
        return
    for line in aligned(list(rows(record, held_by))):
        print(line)


def rows(record: RunRecord, held_by: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield what is known, as names and values."""
    yield "run", record.id
    if record.name:
        yield "name", record.name
    yield "state", f"{record.status}" + (f" ({record.reason})" if record.reason else "")
    if held_by:
        yield "held by", held_by
    yield "script", shlex.join([record.module or record.script_path, *redacted(record.script_args)])
    yield "folder", record.cwd or "-"
    yield "python", record.python or "-"
    yield "framework", record.framework or "none recognised"
    yield "time", format_duration(run_time_s(record))
    yield from progress_rows(record)
    if record.exit_code is not None:
        yield "exit code", str(record.exit_code)
    if record.settings.get("gpuMemoryLimit"):
        held_by = record.memory_layer or "no GPU to hold it on"
        yield "GPU limit", f"{record.settings['gpuMemoryLimit']}: {held_by}"
    for gpu in record.gpus:
        yield "GPU", f"{gpu.index} {gpu.name or ''} {gpu.uuid or ''}".strip()
    for path in record.checkpoints[-SHOWN_CHECKPOINTS:]:
        yield "checkpoint", path
    for count, attempt in enumerate(record.attempts, 1):
        yield f"attempt {count}", describe_attempt(attempt)
        for pause in attempt.pauses:
            took = "still" if pause.end is None else format_duration((pause.end - pause.begin) / 1000)
            yield "  paused", f"{took}: {pause.cause}"


def progress_rows(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield how far the training has come, and what it has reached."""
    yield "step", number(record.last_step)
    if left := in_words(time_boxes_left(record)):
        yield "to go", left
    yield "loss", number(record.last_loss)
    for name, value in record.metrics.items():
        yield f"  {name}", number(value)


def describe_attempt(attempt: Attempt) -> str:
    """Write one attempt in one line."""
    began = as_datetime(attempt.start).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    took = f", {format_duration((attempt.end - attempt.start) / 1000)}" if attempt.end else ""
    source = f", from {escape(attempt.resumed_from)}" if attempt.resumed_from else ""
    why = f" ({attempt.reason})" if attempt.reason else ""
    return f"{attempt.status}{why}, {began}{took}{source}"
