"""`backprop rm`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

from backprop_core import recovery, registry
from backprop_core.errors import UsageError
from backprop_core.identity import host_name
from backprop_core.opening import Opened, close, open_all
from backprop_core.records import RunRecord
from backprop_core.recovery import Grasp, grasp
from backprop_core.states import LIVE

from .declared import Command, Given, argument
from .options import StorageChoice, base_ask
from .removal import Checkpoints, Dry, Yes, remove_runs

Runs = Annotated[
    list[str], argument("Runs: an id, a name, the beginning of an id, or last.", metavar="RUN...")
]


def rm(
    given: Given,
    runs: Runs,
    checkpoints: Checkpoints = False,
    yes: Yes = False,
    dry: Dry = False,
    storage: StorageChoice = None,
) -> int:
    opened = open_all(base_ask(given, flags={"storage": storage} if storage else {}), os.environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        found = {record.id: record for record in (registry.find(opened.storage, run) for run in runs)}
        chosen = list(found.values())
        _refuse_unknown(chosen, opened)
        return remove_runs(opened, chosen, checkpoints=checkpoints, yes=yes, dry=dry or given.dry_run)
    finally:
        close(opened)


def _refuse_unknown(records: Sequence[RunRecord], opened: Opened) -> None:
    """Remove no run that may go on where it cannot be seen from here.

    :raises UsageError: that says what a person can do.
    """
    for record in records:
        if record.status in LIVE and grasp(record, opened.home, host_name()) is Grasp.UNKNOWN:
            who = recovery.describe(record, opened.home, host_name())
            raise UsageError(f"run {record.id} is {record.status}", f"it is held by {who}")


COMMAND = Command(rm)
