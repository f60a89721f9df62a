"""Where a run may have saved: what its arguments and its source name, and the folder it runs in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backprop_core.records import CheckpointForm, Record, Script

DATA = frozenset({"data", "dataset", "datasets", "raw", "processed", "cache"})
"""Folders that hold what is learned from; such a name in the source makes no place of it."""
MOST_NAMED = 64
"""How many named folders are searched before those that everything happens in."""


class Places(Record, frozen=True):
    """The folders that are worth a search: named by the arguments, by the source, and those of every run."""

    by_arguments: tuple[Path, ...] = ()
    by_source: tuple[Path, ...] = ()
    usual: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """Every folder once, the most likely first."""
        return tuple(dict.fromkeys([*self.by_arguments, *self.by_source, *self.usual]))


class Whereabouts(Record, frozen=True):
    """What tells where a run's checkpoints may be, and what they look like.

    Which folders there are is seen anew at each look: the script makes some of them. `pattern` is the setting
    `checkpointGlob`; `since_ms` is when the run first started, in ms since 1970.
    """

    cwd: Path
    folder: Path
    since_ms: int
    script: Script
    arguments: tuple[str, ...] = ()
    forms: tuple[CheckpointForm, ...] = ()
    pattern: str | None = None

    def places(self) -> Places:
        """List the folders that are worth a search now."""
        return places_of(self.script, self.arguments, self.cwd, self.folder)


def places_of(script: Script, arguments: Sequence[str], cwd: Path, run_dir: Path | None) -> Places:
    """List the folders that are worth a search.

    A folder that is named may be a link: that is where the person wants things to be. One that the working
    directory or the home folder lies in is too much to search. The run's own folder counts as named.
    """
    in_source = [text for text in sorted(script.places) if os.path.basename(text.rstrip("/")) not in DATA]
    return Places(
        by_arguments=(*_folders(_values(arguments), cwd), *([run_dir] if run_dir else [])),
        by_source=_folders(in_source, cwd),
        usual=(cwd, Path(script.path).parent),
    )


def _values(arguments: Iterable[str]) -> Iterator[str]:
    """Yield what may be a path in `--out PATH`, `--out=PATH` and `run.dir=PATH`."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals:
            yield value
        if not name.startswith("-"):
            yield argument


def _folders(texts: Iterable[str], cwd: Path) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for text in texts:
        if not text or "\0" in text or len(text) > 1000:
            continue
        path = os.path.normpath(os.path.join(cwd, os.path.expanduser(text)))
        if os.path.isdir(path) and not _is_too_much(Path(path), cwd):
            found[Path(path)] = None
    return tuple(found)[:MOST_NAMED]


def is_within(path: Path, folders: Iterable[Path]) -> bool:
    """Tell whether a path is one of the folders, or lies in one."""
    return any(path == folder or folder in path.parents for folder in folders)


def _is_too_much(place: Path, cwd: Path) -> bool:
    real = Path(os.path.realpath(place))
    return any(
        real == within or real in within.parents
        for within in (Path(os.path.realpath(cwd)), Path(os.path.realpath(os.path.expanduser("~"))))
    )
