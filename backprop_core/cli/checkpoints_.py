"""`backprop checkpoints`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from backprop_core import recovery, registry
from backprop_core.checkpoints.choice import named_by_plugins
from backprop_core.checkpoints.ledger import Known, in_order
from backprop_core.checkpoints.neighbours import disputed_in_words
from backprop_core.checkpoints.search import SEARCH_CUT_SHORT
from backprop_core.checkpoints.validity import what_is_wrong
from backprop_core.clock import as_datetime
from backprop_core.errors import NotFoundError, UsageError
from backprop_core.identity import host_name
from backprop_core.keeping import delete, surplus
from backprop_core.opening import Ask, Opened, close, open_all
from backprop_core.records import Record, RunRecord, Script
from backprop_core.removing import Checkpoint
from backprop_core.traces import Traces, script_of, traces_of
from backprop_core.units import format_size

from .app import say, say_more
from .declared import Command, Given, option
from .list_ import print_json, tell_problems
from .options import Json, Run, base_ask
from .removal import Yes
from .result import called
from .text import aligned, number

COLUMNS = ("PATH", "STEP", "SIZE", "WRITTEN", "STATE", "LEARNED")


class Shown(Record, frozen=True):
    """A checkpoint as it is now; `is_next` for the one that `resume` would go on from."""

    known: Known
    problem: str | None
    is_next: bool = False


def checkpoints(
    given: Given,
    run: Run,
    keep_last: Annotated[
        int | None,
        option("--keep-last", least=1, metavar="N", help="Delete all but the newest N whole checkpoints."),
    ] = None,
    yes: Yes = False,
    json_: Json = False,
) -> int:
    asked = base_ask(given)
    opened = open_all(asked, os.environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        record = registry.find(opened.storage, run)
        tell_problems(opened.storage)
        traces = _traces(record, asked)
        if traces.is_cut:
            say(SEARCH_CUT_SHORT)
        if traces.neighbour:
            say(disputed_in_words(traces.neighbour))
        rows = judged(record, traces, named_by_plugins(record, opened.plugins))
        if keep_last is not None:
            return _keep(opened, record, rows, keep_last, is_agreed=yes)
    finally:
        close(opened)
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


def judged(record: RunRecord, traces: Traces, named: Sequence[Known]) -> list[Shown]:
    """Judge a run's checkpoints as they are now, the one to go on from last."""
    ordered = in_order(dict.fromkeys([*record.checkpoints, *traces.known]), traces.known)
    known = {entry.path: entry for entry in named} | dict(traces.known)
    paths = tuple(dict.fromkeys([*ordered, *(entry.path for entry in named)]))
    problems = {path: what_is_wrong(Path(path), traces.forms) for path in paths}
    newest = next((path for path in reversed(paths) if problems[path] is None), None)
    return [Shown(known=known[path], problem=problems[path], is_next=path == newest) for path in paths]


def _keep(opened: Opened, record: RunRecord, rows: Sequence[Shown], count: int, *, is_agreed: bool) -> int:
    """Delete all but the newest whole ones; what was not seen being made only when a person agrees."""
    whole = [row.known.path for row in rows if row.problem is None]
    newest = whole[-count:]
    others = [row.known.path for row in rows if row.known.path not in newest] if len(whole) > count else []
    found = surplus(opened.storage, opened.home, record, newest, others)
    for each in found.kept:
        say(f"{each.path} is left: it {each.why_kept}")
    going = [*found.seen, *(found.unseen if not found.unseen or is_agreed or _agree(found.unseen) else ())]
    if going:
        delete(opened.storage, opened.home, record, going)
        freed = format_size(sum(each.size_bytes for each in going))
        say(f"deleted {_counted(len(going))}, {freed}; kept {len(newest)}")
    else:
        say(f"nothing to delete: {_counted(len(whole))} of run {called(record)} {_are(len(whole))} whole")
    return 0


def _agree(unseen: Sequence[Checkpoint]) -> bool:
    """Ask about checkpoints that nobody announced.

    :raises UsageError: when nobody is there to answer.
    """
    what = f"{_counted(len(unseen))} {'was' if len(unseen) == 1 else 'were'} not seen being made"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{what}, and are not deleted unasked", "look at them, and give --yes")
    say(f"{what}:")
    for each in unseen:
        say_more(f"{each.path} ({format_size(each.size_bytes)})")
    sys.stderr.write("delete them? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _counted(count: int) -> str:
    return f"{count} checkpoint" if count == 1 else f"{count} checkpoints"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


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
