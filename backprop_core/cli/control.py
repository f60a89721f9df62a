"""What `stop`, `pause`, `unpause` and `extend` have in common: a request to a live run's supervisor."""

from __future__ import annotations

import os
from typing import Literal

from backprop_core import holding, recovery, registry
from backprop_core.errors import UsageError
from backprop_core.identity import host_name
from backprop_core.opening import close, open_all
from backprop_core.records import Intent
from backprop_core.states import LIVE, RunState

from .app import say
from .declared import Given
from .options import base_ask
from .result import called


def request(
    given: Given,
    reference: str,
    kind: Literal["stop", "pause", "unpause", "extend"],
    done: str,
    minutes: float | None = None,
) -> int:
    """Post a request; a run that is not live cannot take one.

    :raises UsageError: when the run has ended, or has no time box yet that could be extended.
    """
    opened = open_all(base_ask(given), os.environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        record = registry.find(opened.storage, reference)
        if record.status not in LIVE:
            raise UsageError(f"run {called(record)} is {record.status}: there is nothing to {kind}")
        if kind == "extend" and record.status is RunState.QUEUED:
            raise UsageError(f"run {called(record)} is queued: its time box has not begun")
        opened.storage.post(record.id, Intent(kind=kind, minutes=minutes))
        if kind != "pause" and record.host == host_name():
            holding.wake(holding.run_folder(opened.home, record.id))
    finally:
        close(opened)
    say(f"run {called(record)} {done}")
    return 0
