"""Where a run may have saved: what its arguments and its source name, and the folder it runs in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backprop_core.records import Script

DATA = frozenset({"data", "dataset", "datasets", "raw", "processed", "cache"})
"""Folders that hold what is learned from; such a name in the source makes no place of it."""
MOST_NAMED = 64
"""How many named folders are searched before those that everything happens in."""


def places_of(script: Script, arguments: Sequence[str], cwd: Path, run_dir: Path | None) -> tuple[Path, ...]:
    """List the folders that are worth a search, the most likely first.

    A folder that is named may be a link: that is where the person wants things to be. One that the working
    directory or the home folder lies in is too much to search.
    """
    beside = Path(script.path).parent
    in_source = [text for text in sorted(script.places) if os.path.basename(text.rstrip("/")) not in DATA]
    named = _folders((*_values(arguments), *in_source), cwd)
    last = [cwd, beside, *([run_dir] if run_dir else [])]
    kept = [place for place in named if not _is_too_much(place, cwd)][:MOST_NAMED]
    return tuple(dict.fromkeys([*kept, *last]))


def named_by_arguments(arguments: Sequence[str], cwd: Path) -> tuple[Path, ...]:
    """List the folders that the arguments name."""
    return tuple(place for place in _folders(_values(arguments), cwd) if not _is_too_much(place, cwd))


def _values(arguments: Iterable[str]) -> Iterator[str]:
    """Yield what may be a path in `--out PATH`, `--out=PATH` and `run.dir=PATH`."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals:
            yield value
        if not name.startswith("-"):
            yield argument


def _folders(texts: Iterable[str], cwd: Path) -> list[Path]:
    found = []
    for text in texts:
        if not text or "\0" in text or len(text) > 1000:
            continue
        path = os.path.normpath(os.path.join(cwd, os.path.expanduser(text)))
        if os.path.isdir(path):
            found.append(Path(path))
    return found


def _is_too_much(place: Path, cwd: Path) -> bool:
    real = Path(os.path.realpath(place))
    return any(
        real == within or real in within.parents
        for within in (Path(os.path.realpath(cwd)), Path(os.path.realpath(os.path.expanduser("~"))))
    )
