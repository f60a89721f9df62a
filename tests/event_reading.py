"""Reading events out of what a script printed, with the parsers that a test gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backprop_core.events import EventReader
from backprop_core.records import Event

CWD = Path("/work dir")


def reader(*parsers: Any) -> EventReader:
    return EventReader(parsers, CWD)


def read(one: EventReader, *chunks: bytes) -> list[Event]:
    return [*(event for chunk in chunks for event in one.feed(chunk)), *one.end()]


def saying(*events: Any) -> Callable[[str], Sequence[Any]]:
    """A parser that answers every line so."""
    return lambda _: list(events)
