"""Looking for checkpoints on disk: bounded, within a few places, and never through links."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from backprop_core.bundles import INDEX, shards_of
from backprop_core.clock import now_s
from backprop_core.records import CheckpointForm, Record

from .forms import form_of, step_in
from .places import DATA

MOST_S = 1.0
MOST_ENTRIES = 50_000
MOST_IN_FOLDER = 10_000
MOST_DEPTH = 8
MOST_MEASURED = 2000
"""Files of one folder: the size of a greater one is that of its first."""
COARSE_CLOCK_MS = 20
"""By how much a file's time may lie before the moment of its writing: the kernel notes it by its tick."""
NEVER_INSIDE = frozenset({"__pycache__", "node_modules", "site-packages", "wandb", "mlruns", *DATA})
"""Folders that hold no checkpoints to go on from, unless a person names them; trackers hold copies."""
SEARCH_CUT_SHORT = (
    "looking for checkpoints was cut short: there are too many files; "
    "the setting checkpointGlob can say where they are"
)
_MARKS_OF_ENVIRONMENT = frozenset({"pyvenv.cfg", "conda-meta"})


class Find(Record, frozen=True):
    """A checkpoint on disk.

    `at_ms` is when it was last written to, in ms since 1970. `size_bytes` counts all files of a folder.
    """

    path: Path
    at_ms: int
    size_bytes: int
    step: int | None = None
    is_second_choice: bool = False


class Findings(msgspec.Struct, frozen=True):
    """What a search has found, the oldest first; `is_cut` when it ended before it had looked everywhere."""

    finds: tuple[Find, ...]
    is_cut: bool = False


class _Place(msgspec.Struct, frozen=True):
    folder: str
    depth: int
    is_start: bool


def search(
    places: Sequence[Path],
    forms: Sequence[CheckpointForm],
    since_ms: float,
    *,
    is_needed: Callable[[], bool] = lambda: True,
) -> Findings:
    """Find what has one of the forms in or under the places and was written since then.

    :param places: The most likely ones first: the search ends after a second, or 50,000 names.
    :param is_needed: Asked at every folder; False ends the search.
    """
    if not forms:
        return Findings(())
    found: dict[str, Find] = {}
    seen: set[tuple[int, int]] = set()
    left, until_s = MOST_ENTRIES, now_s() + MOST_S
    waiting = deque(_Place(str(place), 0, is_start=True) for place in places)
    while waiting:
        if left <= 0 or now_s() > until_s or not is_needed():
            return Findings(_sorted(found, since_ms), is_cut=True)
        place = waiting.popleft()
        entries = _entries(place.folder, seen)
        left -= len(entries)
        looked = _look(place, entries, forms)
        if looked is None:
            continue
        if isinstance(looked, Find):
            found[place.folder] = looked
            continue
        found |= {str(find.path): find for find in looked}
        if place.depth < MOST_DEPTH:
            waiting.extend(_inside(place, entries))
    return Findings(_sorted(found, since_ms))


def _sorted(found: dict[str, Find], since_ms: float) -> tuple[Find, ...]:
    finds = (find for find in found.values() if find.at_ms >= since_ms - COARSE_CLOCK_MS)
    return tuple(sorted(finds, key=lambda find: (find.at_ms, find.step or 0, str(find.path))))


def _entries(folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """List a folder, once; one that may not be read is empty."""
    entries = []
    with suppress(OSError):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listed:
                for entry in listed:
                    entries.append(entry)
                    if len(entries) == MOST_IN_FOLDER:
                        break
    return entries


def _look(
    place: _Place, entries: Sequence[os.DirEntry[str]], forms: Sequence[CheckpointForm]
) -> Find | list[Find] | None:
    """Return the folder itself where it is a checkpoint, None where it is to be one, else the files in it that are."""
    path, names = Path(place.folder), {entry.name for entry in entries}
    form = form_of(path, names, forms)
    if form is not None and form.is_unfinished:
        return None
    if form is not None and (form.holds or not place.is_start):
        return measure(path, forms, form) or []
    files = []
    for entry in entries:
        file = Path(entry.path)
        form = form_of(file, None, forms)
        if form is None or form.is_unfinished or (file.suffix == INDEX and not shards_of(file)):
            continue
        if find := _file(entry, form):
            files.append(find)
    return files


def _inside(place: _Place, entries: Sequence[os.DirEntry[str]]) -> Iterator[_Place]:
    if any(entry.name in _MARKS_OF_ENVIRONMENT for entry in entries):
        return
    for entry in entries:
        if entry.name in NEVER_INSIDE or entry.name.startswith("."):
            continue
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                yield _Place(entry.path, place.depth + 1, is_start=False)


def _file(entry: os.DirEntry[str], form: CheckpointForm) -> Find | None:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return _find(Path(entry.path), form, [status]) if stat.S_ISREG(status.st_mode) else None


def measure(path: Path, forms: Sequence[CheckpointForm], form: CheckpointForm | None = None) -> Find | None:
    """Take the size and the time of a checkpoint that is there; None when it is not, or cannot be looked at."""
    try:
        if path.is_dir():
            form = form or form_of(path, os.listdir(path), forms)
            files = [os.lstat(file) for file in islice(_files_in(path), MOST_MEASURED)]
            return _find(path, form, files or [path.stat()])
        return _find(path, form or form_of(path, None, forms), [path.stat()])
    except (OSError, ValueError):
        return None


def _files_in(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names)


def _find(path: Path, form: CheckpointForm | None, files: Sequence[os.stat_result]) -> Find:
    with suppress(OSError):
        files = [*files, *(shard.stat() for shard in shards_of(path))]
    return Find(
        path=path,
        at_ms=max(status.st_mtime_ns for status in files) // 1_000_000,
        size_bytes=sum(status.st_size for status in files if stat.S_ISREG(status.st_mode)),
        step=step_in(path, form),
        is_second_choice=form is not None and form.is_second_choice,
    )
