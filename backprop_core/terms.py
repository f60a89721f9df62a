"""What one attempt is given, and how it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from .checkpoints.places import Whereabouts
from .errors import ExitCode
from .interfaces import Framework
from .records import Record, RunRecord, RunRequest
from .settings import Resolved

STOPPED_WITH = {
    "Ctrl-C": ExitCode.INTERRUPTED,
    "SIGTERM": ExitCode.STOPPED,
    "backprop stop": ExitCode.STOPPED,
    "the terminal was closed": 128 + signal.SIGHUP,
}


class Order(Record, frozen=True):
    """Everything that one attempt needs to know.

    `record` is the run as it was before this attempt; `lock` holds its folder. `whereabouts` is where its
    checkpoints may be. `helper_needed` is set where the script's interpreter lacks this distribution.
    `ends_at_ms` is when the run ends at the latest, by the wall clock; None without such a moment. An order that
    `follows` another time box waits for its turn as long as it takes; with `same_code` none follows a change.
    """

    resolved: Resolved
    request: RunRequest
    record: RunRecord
    lock: int
    home: Path
    environ: Mapping[str, str]
    whereabouts: Whereabouts
    framework: Framework | None = None
    helper_needed: bool = False
    force: bool = False
    is_detached: bool = False
    with_local_plugins: bool = True
    ends_at_ms: int | None = None
    follows: bool = False
    same_code: bool = False


class Result(Record, frozen=True):
    """How an attempt ended, and what the command exits with; `is_recorded` is False where its end is not.

    `missing_line` is what the script lacks to go on from the checkpoints that there are.
    `goes_on` says why another time box follows; None where none does. `asked` is what a person did to end the
    run, in a word of `STOPPED_WITH`, also where that came too late to end this attempt.
    """

    record: RunRecord
    exit_code: int
    is_recorded: bool = True
    missing_line: str | None = None
    goes_on: str | None = None
    asked: str | None = None


GoesOn = Callable[[RunRecord], str | None]
"""Tells from an attempt's final record why another time box follows; None where none does."""
