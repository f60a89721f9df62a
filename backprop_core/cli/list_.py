"""`backprop list`."""

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

from backprop_core import recovery
from backprop_core.errors import UsageError
from backprop_core.identity import host_name
from backprop_core.opening import close, open_all
from backprop_core.records import RunRecord
from backprop_core.states import LIVE, RunState

from .app import say
from .declared import Command, Given, option
from .options import Json, StorageChoice, base_ask
from .text import LIST_COLUMNS, aligned, list_row

NEWEST = 20
MOST_PROBLEMS = 10


def list_runs(
    given: Given,
    limit: Annotated[
        int | None, option("--limit", least=1, metavar="N", help="How many runs. [default: 20]")
    ] = None,
    all_: Annotated[bool, option("--all", help="Every run.")] = False,
    state: Annotated[
        list[str] | None, option("--state", metavar="S", help="Only runs in this state.")
    ] = None,
    storage: StorageChoice = None,
    json_: Json = False,
) -> int:
    opened = open_all(base_ask(given, flags={"storage": storage} if storage else {}), os.environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        most = limit if limit or all_ or json_ else NEWEST
        records = opened.storage.runs(states=states_named(state or ()), limit=most)
        unknown = {record.id for record in records if _is_unknown(record, opened.home)}
        tell_problems(opened.storage)
    finally:
        close(opened)
    if json_:
        print_json([record.to_dict() for record in records])
    elif sys.stdout.isatty():
        _show_table(records, unknown)
    else:
        _print_lines(records, unknown)
    if unknown and not json_:
        say("`?`: another machine or container has recorded that; `backprop status RUN` shows what is known")
    return 0


def _is_unknown(record: RunRecord, home: Path) -> bool:
    return record.status in LIVE and recovery.grasp(record, home, host_name()) is recovery.Grasp.UNKNOWN


COMMAND = Command(list_runs)


def states_named(names: Sequence[str]) -> tuple[RunState, ...]:
    """Return the states of these names.

    :raises UsageError: for a name that is none.
    """
    unknown = [name for name in names if name not in set(RunState)]
    if unknown:
        raise UsageError(f"there is no state {unknown[0]!r}", f"the states are {', '.join(RunState)}")
    return tuple(RunState(name) for name in names)


def tell_problems(storage: object) -> None:
    """Say what a storage found wrong with its records, where it tells."""
    problems = getattr(storage, "problems", ())
    for problem in problems[:MOST_PROBLEMS]:
        say(str(problem))
    if len(problems) > MOST_PROBLEMS:
        say(f"... and {len(problems) - MOST_PROBLEMS:,} more like these")


def print_json(document: object) -> None:
    """Print one JSON document."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def _print_lines(records: Sequence[RunRecord], unknown: Collection[str]) -> None:
    rows = (list_row(record, is_unknown=record.id in unknown) for record in records)
    for line in aligned([LIST_COLUMNS, *rows]):
        print(line)


def _show_table(records: Sequence[RunRecord], unknown: Collection[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from backprop_core.units import escape

    from .colours import STATE_STYLE

    if not records:
        say("no runs yet; start one with `backprop run SCRIPT`")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in LIST_COLUMNS:
        numeric = column in {"TIME", "STEP", "LOSS", "CHECKPOINTS", "LEFT"}
        table.add_column(column, justify="right" if numeric else "left", no_wrap=column in {"ID", "STARTED"})
    for record in records:
        style = STATE_STYLE.get(record.status, "")
        table.add_row(
            *(
                Text(escape(cell), style=style if index == 2 else "")
                for index, cell in enumerate(list_row(record, is_unknown=record.id in unknown))
            )
        )
    Console().print(table)
