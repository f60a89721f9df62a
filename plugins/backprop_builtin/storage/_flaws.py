"""What is wrong with a store, told without changing it, in the words that both kinds of file share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from backprop_core import Flaw

from ._files import is_leftover
from ._journals import Journal
from ._reading import Reading
from ._run_folders import RunFolders

_WRITING_S = 60.0  # a younger temporary file may be a living writer's


def damage(path: Path, what: str, folders: RunFolders) -> Flaw:
    """Tell of a file that cannot be read as a whole."""
    copies, unreadable = folders.copies()
    lost = f"; {len(unreadable)} copies cannot be read" if unreadable else ""
    repair = f"keep it aside, and put the records together again from it and from {len(copies)} copies{lost}"
    return Flaw(where=str(path), what=what, repair=repair)


def in_records(path: Path, folders: RunFolders, records: Iterable[tuple[str, bytes]]) -> Iterator[Flaw]:
    """Tell of records that cannot be read, or changed behind their checksum."""
    reading = Reading(path, folders)
    for run_id, line in records:
        reading.decoded_or_noted(run_id, line)
    for problem in reading.problems:
        yield Flaw(where=str(path), what=problem.removeprefix(f"{path}: "))


def in_journals(waiting: Iterable[Journal]) -> Iterator[Flaw]:
    """Tell of records that were left beside the store, for somebody kept its lock."""
    for journal in waiting:
        if journal.is_done_with:
            what = f"is a journal of run {journal.run_id} that waits for the next writer"
            yield Flaw(where=str(journal.path), what=what, repair="add what it knows to the store")
        else:
            yield Flaw(where=str(journal.path), what="is a journal that cannot be read", hint="remove it")


def in_folder(path: Path) -> Iterator[Flaw]:
    """Tell of temporary files that killed writers have left."""
    for name in os.listdir(path.parent):
        file = path.with_name(name)
        with suppress(FileNotFoundError):
            if is_leftover(name, path.name) and time.time() - file.stat().st_mtime > _WRITING_S:
                yield Flaw(where=str(file), what="was left by a writer that was killed", repair="remove it")
