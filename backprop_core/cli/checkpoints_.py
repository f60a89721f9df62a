"""`backprop checkpoints`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from backprop_core import recovery, registry
from backprop_core.checkpoints import SEARCH_CUT_SHORT, what_is_wrong
from backprop_core.checkpoints.ledger import Known, in_order
from backprop_core.clock import as_datetime
from backprop_core.errors import NotFoundError
from backprop_core.identity import host_name
from backprop_core.opening import Ask, close, open_all
from backprop_core.records import Record, RunRecord, Script
from backprop_core.traces import Traces, script_of, traces_of
from backprop_core.units import format_size

from .app import say
from .declared import Command, Given
from .list_ import print_json, tell_problems
from .options import Json, Run, base_ask
from .result import called
from .text import aligned, number

COLUMNS = ("PATH", "STEP", "SIZE", "WRITTEN", "STATE", "LEARNED")


class Shown(Record, frozen=True):
    """A checkpoint as it is now; `is_next` for the one that `resume` would go on from."""

    known: Known
    problem: str | None
    is_next: bool = False


def checkpoints(given: Given, run: Run, json_: Json = False) -> int:
    asked = base_ask(given)
    opened = open_all(asked, os.environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        record = registry.find(opened.storage, run)
        tell_problems(opened.storage)
        traces = _traces(record, asked)
    finally:
        close(opened)
    if traces.is_cut:
        say(SEARCH_CUT_SHORT)
    rows = judged(record, traces)
    if json_:
        print_json([_as_dict(row) for row in rows])
    elif rows:
        _show(rows)
    else:
        say(f"no checkpoint of run {called(record)} was announced or found")
    return 0


COMMAND = Command(checkpoints)


def _traces(record: RunRecord, ask: Ask) -> Traces:
    """Look for the run's checkpoints with the settings and plugins that it had."""
    opened = open_all(ask, os.environ, recorded=record.settings)
    try:
        return traces_of(record, _script(record), opened)
    finally:
        close(opened)


def _script(record: RunRecord) -> Script:
    """Describe the script; one that is gone names no folders, and its framework is that of the settings."""
    try:
        return script_of(record)
    except NotFoundError as error:
        say(f"{error.message}: only what is recorded is shown")
        return Script(path=Path(record.script_path))


def judged(record: RunRecord, traces: Traces) -> list[Shown]:
    """Judge a run's checkpoints as they are now, the one to go on from last."""
    paths = in_order(dict.fromkeys([*record.checkpoints, *traces.known]), traces.known)
    problems = {path: what_is_wrong(Path(path), traces.forms) for path in paths}
    newest = next((path for path in reversed(paths) if problems[path] is None), None)
    return [Shown(known=traces.known[path], problem=problems[path], is_next=path == newest) for path in paths]


def _as_dict(row: Shown) -> dict[str, object]:
    return {
        "path": row.known.path,
        "step": row.known.step,
        "sizeBytes": row.known.size_bytes,
        "at": row.known.at,
        "valid": row.problem is None,
        "problem": row.problem,
        "learned": row.known.learned,
        "isNext": row.is_next,
    }


def _row(row: Shown) -> tuple[str, ...]:
    at, size = row.known.at, row.known.size_bytes
    return (
        row.known.path,
        number(row.known.step),
        "-" if size is None else format_size(size),
        "-" if at is None else as_datetime(at).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        row.problem or ("whole, the next" if row.is_next else "whole"),
        row.known.learned,
    )


def _show(rows: Sequence[Shown]) -> None:
    if not sys.stdout.isatty():
        for line in aligned([COLUMNS, *map(_row, rows)]):
            print(line)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from backprop_core.units import escape

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in {"STEP", "SIZE"} else "left", overflow="fold")
    for row in rows:
        style = "red" if row.problem else "green" if row.is_next else ""
        table.add_row(
            *(Text(escape(cell), style=style if index == 4 else "") for index, cell in enumerate(_row(row)))
        )
    Console().print(table)
