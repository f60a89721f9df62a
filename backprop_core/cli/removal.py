"""What `rm` and `prune` have in common: showing what goes, asking about checkpoints, removing, telling."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

from backprop_core.errors import ExitCode, UsageError
from backprop_core.opening import Opened
from backprop_core.records import RunRecord
from backprop_core.removing import Removable, Removed, removable, remove, with_checkpoints
from backprop_core.units import escape, format_size

from .app import say
from .declared import option
from .list_ import tell_problems
from .result import called
from .text import aligned, list_row

Checkpoints = Annotated[
    bool, option("--checkpoints", help="Remove their checkpoints, too: lists them and asks first.")
]
Yes = Annotated[bool, option("--yes", "-y", help="Do not ask.")]
Dry = Annotated[bool, option("--dry-run", help="Show what would be removed, and remove nothing.")]
SHOWN = 20


def remove_runs(
    opened: Opened, records: Sequence[RunRecord], *, checkpoints: bool, yes: bool, dry: bool
) -> int:
    """Remove runs, with their checkpoints only when that was asked for and confirmed.

    :raises UsageError: when one of them is live, or nobody can answer the question.
    """
    going = removable(opened.home, records)
    if checkpoints:
        going = with_checkpoints(opened.storage, going)
    if dry:
        _show([*_run_lines(going), *_checkpoint_lines(going)])
        say(f"{_runs(len(going))} would be removed; nothing was (--dry-run)")
        return int(ExitCode.OK)
    if checkpoints and not _may_go(going, yes=yes):
        say("nothing was removed")
        return int(ExitCode.ERROR)
    removed = remove(opened.storage, going)
    tell_problems(opened.storage)
    _tell(going, removed)
    return int(ExitCode.OK if len(removed) == len(going) else ExitCode.ERROR)


def _may_go(going: Sequence[Removable], *, yes: bool) -> bool:
    """List the checkpoints, and ask about those that would go."""
    _show(_checkpoint_lines(going))
    count = sum(len(each.removable_checkpoints) for each in going)
    if not count or yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            "nobody can be asked here whether these checkpoints may go", "add --yes to remove them"
        )
    things = "this checkpoint" if count == 1 else f"these {count} checkpoints"
    print(f"Remove {_runs(len(going))} and {things}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _run_lines(going: Sequence[Removable]) -> Iterator[str]:
    return aligned([list_row(each.record) for each in going]) if going else iter(())


def _checkpoint_lines(going: Sequence[Removable]) -> Iterator[str]:
    for each in going:
        for found in each.checkpoints:
            path = escape(str(found.path))
            yield (
                f"  keep    {path}: it {escape(found.why_kept)}"
                if found.why_kept
                else (f"  remove  {path} ({format_size(found.size_bytes)})")
            )


def _show(lines: Sequence[str] | Iterator[str]) -> None:
    for line in lines:
        print(line)
    sys.stdout.flush()


def _tell(going: Sequence[Removable], removed: Sequence[Removed]) -> None:
    for each in [one for one in removed if one.left][:SHOWN]:
        names = ", ".join(each.left[:5]) + (", ..." if len(each.left) > 5 else "")
        say(f"{each.folder} stays: its script keeps {names} there")
    gone = {each.record.id for each in removed}
    for busy in [each.record for each in going if each.record.id not in gone][:SHOWN]:
        say(f"run {called(busy)} stays: another process has taken it up")
    if not any(each.checkpoints for each in going) and any(one.record.checkpoints for one in removed):
        say("checkpoints stay where they are (--checkpoints removes them)")
    freed = sum(each.freed_bytes for each in removed)
    which = called(removed[0].record) if len(removed) == 1 else ""
    say(f"run {which} removed" if which else f"{_runs(len(removed))} removed, {format_size(freed)} freed")


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"
