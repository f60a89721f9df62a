"""What `stop`, `pause` and `unpause` have in common: a request to a live run's supervisor."""

from __future__ import annotations

import os
from typing import Literal

from backprop_core import holding, recovery, registry
from backprop_core.errors import UsageError
from backprop_core.identity import host_name
from backprop_core.opening import close, open_all
from backprop_core.records import Intent
from backprop_core.states import LIVE

from .app import say
from .declared import Given
from .options import base_ask
from .result import called


def request(given: Given, reference: str, kind: Literal["stop", "pause", "unpause"], done: str) -> int:
    """Post a request; a run that is not live cannot take one.

    :raises UsageError: when the run has ended.
    """
    opened = open_all(base_ask(given), os.environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        record = registry.find(opened.storage, reference)
        if record.status not in LIVE:
            raise UsageError(f"run {called(record)} is {record.status}: there is nothing to {kind}")
        opened.storage.post(record.id, Intent(kind=kind))
        if kind != "pause" and record.host == host_name():
            holding.wake(holding.run_folder(opened.home, record.id))
    finally:
        close(opened)
    say(f"run {called(record)} {done}")
    return 0
