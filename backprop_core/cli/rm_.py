"""`backprop rm`."""

from __future__ import annotations

import os
from typing import Annotated

from backprop_core import recovery, registry
from backprop_core.identity import host_name
from backprop_core.opening import close, open_all

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
        return remove_runs(opened, chosen, checkpoints=checkpoints, yes=yes, dry=dry or given.dry_run)
    finally:
        close(opened)


COMMAND = Command(rm)
