"""What is known of each checkpoint of a run: `checkpoints.jsonl` in the run's folder, a line for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from backprop_core.locks import open_private
from backprop_core.records import Record

NAME = "checkpoints.jsonl"
MOST = 10_000
"""Of how many checkpoints of one run more is known than that they were announced."""

Learned = Literal["announced", "found", "glob", "plugin"]
"""How a checkpoint became known: the script said so, it lay on disk, `checkpointGlob` or a plugin named it."""


class Known(Record, frozen=True, rename="camel"):
    """What is known of one checkpoint.

    `at` is when it was written, in ms since 1970; None where it was announced and never seen. `problem` says why
    it cannot be used, in words that follow its path, as far as was seen when it was last looked at; None while
    it looks whole.
    """

    path: str
    learned: Learned
    step: int | None = None
    size_bytes: int | None = None
    at: int | None = None
    problem: str | None = None
    is_second_choice: bool = False


Ledger = Mapping[str, Known]
"""By path, in the order in which they became known."""


def read(folder: Path) -> dict[str, Known]:
    """Read a run's ledger; lines that cannot be read are passed over, and without a file it is empty."""
    known: dict[str, Known] = {}
    try:
        text = (folder / NAME).read_bytes()
    except OSError:
        return known
    for line in text.splitlines():
        with suppress(msgspec.DecodeError):
            entry = msgspec.json.decode(line, type=Known)
            known[entry.path] = entry
    return known


def write(folder: Path, ledger: Ledger) -> None:
    """Write it whole, and put it in place at once.

    :raises OSError: when it cannot be written; what was there before is there still.
    """
    lines = b"".join(_encode(entry) for entry in ledger.values())
    fresh = folder / f".{NAME}.{os.getpid()}"
    descriptor = open_private(fresh, os.O_WRONLY | os.O_TRUNC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(lines)
    fresh.replace(folder / NAME)


def _encode(entry: Known) -> bytes:
    try:
        return msgspec.json.encode(entry) + b"\n"
    except UnicodeEncodeError:  # a name of arbitrary bytes; no record could hold it either
        return b""


def merged(ledger: Ledger, news: Iterable[Known]) -> dict[str, Known]:
    """Add what became known; how a path was first learned stays, and so does the step of what was not saved anew."""
    known = dict(ledger)
    add(known, news)
    return known


def add(known: dict[str, Known], news: Iterable[Known]) -> None:
    """Add to a ledger as `merged` does, in place; beyond MOST, the oldest are forgotten."""
    for entry in news:
        before = known.pop(entry.path, None)
        known[entry.path] = entry if before is None else _joined(before, entry)
        if len(known) > MOST:
            del known[next(iter(known))]


def _joined(before: Known, entry: Known) -> Known:
    is_same_save = entry.at is None or entry.at == before.at
    return msgspec.structs.replace(
        entry,
        learned=before.learned,
        step=before.step if entry.step is None and is_same_save else entry.step,
        size_bytes=before.size_bytes if entry.size_bytes is None else entry.size_bytes,
        at=before.at if entry.at is None else entry.at,
        is_second_choice=entry.is_second_choice and before.learned != "announced",
    )


def in_order(paths: Iterable[str], ledger: Ledger) -> tuple[str, ...]:
    """Sort checkpoints by when they were written, the one to go on from last.

    :param paths: The oldest first; those without a known time stay behind the one before them.
    """
    when = 0
    keys = {}
    for place, path in enumerate(paths):
        entry = ledger.get(path)
        when = max(when, entry.at) if entry and entry.at and entry.learned == "announced" else when
        at = entry.at if entry and entry.at else when
        keys[path] = (not (entry and entry.is_second_choice), at, place)
    return tuple(sorted(keys, key=keys.__getitem__))
