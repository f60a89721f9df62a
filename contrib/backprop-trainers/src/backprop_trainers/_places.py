"""Where checkpoints of a run are put, and which are kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KEPT = 2
"""The newest, and the one before it, in case the newest turns out to be broken."""


def folder_for(trainer: str, chosen: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder for a trainer's checkpoints; None outside a run where none was chosen."""
    if chosen is not None:
        return Path(chosen)
    run_dir = os.environ.get("BACKPROP_RUN_DIR")
    return Path(run_dir, trainer) if run_dir and os.environ.get("BACKPROP_RUN_ID") else None


class Kept:
    """The checkpoints that this process has made; older ones of its own are removed."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def add(self, path: Path) -> None:
        self._made = [*(other for other in self._made if other != path), path]
        while len(self._made) > KEPT:
            remove(self._made.pop(0))


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
