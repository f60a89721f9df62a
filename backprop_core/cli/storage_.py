"""`backprop storage`: bring records from one storage into another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from backprop_core import recovery
from backprop_core.clock import now_s
from backprop_core.copying import Copied, copy_runs, differing
from backprop_core.errors import ExitCode, UsageError
from backprop_core.identity import host_name
from backprop_core.interfaces import Storage
from backprop_core.opening import Opened, close, open_all, open_storage

from .app import say
from .declared import Command, Given, argument
from .list_ import tell_problems
from .options import base_ask
from .result import called
from .typed import in_typers_words

SHOWN = 5
TELL_EVERY_S = 2.0

From = Annotated[str, argument("A storage's name or URL: json, sqlite:///path.", metavar="FROM")]
To = Annotated[str, argument("A storage's name or URL.", metavar="TO")]


def register(app: typer.Typer, about: str) -> None:
    """Add the commands."""
    storage = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode="rich")
    storage.command("copy", help="Copy the records and metrics of every run that has ended.")(
        in_typers_words(Command(copy))
    )
    app.add_typer(storage, name="storage")


def copy(given: Given, source: From, target: To) -> int:
    opened = open_all(base_ask(given, flags={"storage": source}), os.environ)
    try:
        return _copy(opened, source, target)
    finally:
        close(opened)


def _copy(opened: Opened, source: str, target: str) -> int:
    into = _open(opened, target)
    try:
        if source == target or _is_same_place(opened.storage, into):
            raise UsageError(f"{source} and {target} are the same storage", "name two different ones")
        recovery.mark_lost(opened.storage, opened.home, host_name())
        copied = copy_runs(opened.storage, into, _Teller())
    finally:
        into.close()
    into = _open(opened, target)  # what is verified is what another command will find
    try:
        unlike = differing(opened.storage, into, copied)
        tell_problems(into)
    finally:
        into.close()
    tell_problems(opened.storage)
    _report(copied, unlike, target)
    has_problems = bool(getattr(opened.storage, "problems", ()))
    is_done = copied.is_complete and not unlike and not has_problems
    return int(ExitCode.OK if is_done else ExitCode.ERROR)


def _open(opened: Opened, name: str) -> Storage:
    settings = msgspec.structs.replace(opened.resolved.settings, storage=name)
    resolved = msgspec.structs.replace(opened.resolved, settings=settings)
    return open_storage(opened.plugins, resolved, os.environ)[0]


def _is_same_place(one: Storage, other: Storage) -> bool:
    """Tell whether both keep their records in the same file, if they tell where."""
    place = getattr(one, "path", None)
    return place is not None and place == getattr(other, "path", None)


class _Teller:
    """Says how far it is, now and then."""

    def __init__(self) -> None:
        self._next_s = now_s() + TELL_EVERY_S

    def __call__(self, done: int, total: int) -> None:
        if now_s() >= self._next_s:
            say(f"{done:,} of {total:,} runs")
            self._next_s = now_s() + TELL_EVERY_S


def _report(copied: Copied, unlike: Sequence[str], target: str) -> None:
    for kind, what in (
        (copied.live, "has not ended and was left out: copy again later"),
        (copied.ahead, f"has come further in {target}, where it stays as it is"),
        (copied.clashing, f"is recorded otherwise in {target} and neither is newer: it stays there as it is"),
        (copied.split, f"has other metrics in {target}, where they stay as they are"),
    ):
        _list([called(record) for record in kind], what)
    _list(unlike, f"is not the same in {target} now: it changed meanwhile, or it was not written whole")
    alike = len(copied.copied) + len(copied.equal) - len(unlike)
    there = f", {len(copied.equal):,} there already" if copied.equal else ""
    say(f"{_runs(len(copied.copied))} copied to {target}{there}; {alike:,} compared and found alike")


def _list(names: Sequence[str], what: str) -> None:
    for name in names[:SHOWN]:
        say(f"run {name} {what}")
    if len(names) > SHOWN:
        say(f"... and so for {_runs(len(names) - SHOWN)} more")


def _runs(count: int) -> str:
    return f"{count:,} run" if count == 1 else f"{count:,} runs"
