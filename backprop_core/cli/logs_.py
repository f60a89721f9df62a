"""`backprop logs`: what a run printed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from backprop_core import holding, recovery, registry
from backprop_core.errors import NotFoundError
from backprop_core.identity import host_name
from backprop_core.opening import Opened, close, open_all
from backprop_core.states import LIVE

from .declared import Command, Given, option
from .options import Run, base_ask

if TYPE_CHECKING:
    from .harmless import HarmlessStream

CHUNK_BYTES = 1 << 20
LOOK_EVERY_S = 0.2


def logs(
    given: Given,
    run: Run,
    follow: Annotated[bool, option("--follow", "-f", help="Go on until the run has ended.")] = False,
) -> int:
    opened = open_all(base_ask(given), os.environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        record = registry.find(opened.storage, run)
        path = holding.run_folder(opened.home, record.id) / "output.log"
        if follow:
            return _follow(opened, record.id, path)
        if not path.is_file():
            raise NotFoundError(f"run {record.id} has no output here", f"it would be in {path}")
        _copy_from(path, 0)
    finally:
        close(opened)
    return 0


COMMAND = Command(logs)


def _follow(opened: Opened, run_id: str, path: Path) -> int:
    position = 0
    try:
        while True:
            record = opened.storage.get(run_id)
            if path.is_file():
                position = _copy_from(path, position)
            if record is None or record.status not in LIVE:
                return 0
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        return 0


def _copy_from(path: Path, position: int) -> int:
    """Print the log from a position; returns where it ended. A log that shrank is read on from its end."""
    stream = _harmless_stream() if sys.stdout.isatty() else None
    with path.open("rb") as file:
        position = min(position, os.fstat(file.fileno()).st_size)
        file.seek(position)
        while chunk := file.read(CHUNK_BYTES):
            position += len(chunk)
            sys.stdout.buffer.write(stream.feed(chunk) if stream else chunk)
        if stream:
            sys.stdout.buffer.write(stream.feed(b"", is_last=True))
    sys.stdout.buffer.flush()
    return position


def _harmless_stream() -> HarmlessStream:
    from .harmless import HarmlessStream

    return HarmlessStream()
