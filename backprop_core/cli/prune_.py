"""`backprop prune`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

from backprop_core import recovery
from backprop_core.clock import now_ms
from backprop_core.errors import UsageError
from backprop_core.identity import host_name
from backprop_core.opening import close, open_all
from backprop_core.removing import ended_before
from backprop_core.states import FINAL, RunState
from backprop_core.units import duration_s

from .declared import Command, Given, option
from .list_ import states_named
from .options import StorageChoice, base_ask
from .removal import Checkpoints, Dry, Yes, remove_runs


def prune(
    given: Given,
    older: Annotated[
        str | None, option("--older", metavar="TIME", help="Runs that ended longer ago: 45m, 12h, 30d, 8w.")
    ] = None,
    state: Annotated[
        list[str] | None, option("--state", metavar="S", help="Only runs that ended in this state.")
    ] = None,
    checkpoints: Checkpoints = False,
    yes: Yes = False,
    dry: Dry = False,
    storage: StorageChoice = None,
) -> int:
    before_ms = now_ms() - round(1000 * _age_s(older))
    states = _endings(state or ())
    opened = open_all(base_ask(given, flags={"storage": storage} if storage else {}), os.environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        chosen = ended_before(opened.storage, before_ms, states)
        return remove_runs(opened, chosen, checkpoints=checkpoints, yes=yes, dry=dry or given.dry_run)
    finally:
        close(opened)


COMMAND = Command(prune)


def _age_s(older: str | None) -> float:
    if older is None:
        raise UsageError(
            "which runs are to be removed?", "say how long ago they ended: backprop prune --older 30d"
        )
    try:
        return duration_s(older)
    except ValueError as error:
        raise UsageError(f"--older: {error}") from error


def _endings(names: Sequence[str]) -> tuple[RunState, ...]:
    states = states_named(names)
    for state in states:
        if state not in FINAL:
            raise UsageError(
                f"runs that are {state} have not ended", f"name one of {', '.join(sorted(FINAL))}"
            )
    return states
