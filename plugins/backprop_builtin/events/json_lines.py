"""Read progress and checkpoints from the JSON objects that a script prints, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backprop_core import CheckpointSaved, Event, EventParser, Progress, hookimpl

_NAMED = {"step", "total_steps", "totalSteps", "epoch", "loss", "event", "path"}
_decode = msgspec.json.Decoder().decode
_NOT_PLAIN = (b'"metrics"', b'"at"', b"null", b"\\")
"""Names that mean something else here, objects that may say nothing, and escapes that could spell either."""
_decode_plain = msgspec.json.Decoder(Progress).decode_lines


class JsonLines:
    """Reads one line, or a whole chunk of plain lines at once."""

    def __call__(self, line: str) -> Sequence[Event] | None:
        return parse_line(line)

    def parse_chunk(self, lines: bytes) -> Sequence[Event] | None:
        """Decode lines that hold nothing but named numbers; None when there is any other among them.

        What this lets through needs no further check: strict JSON has no NaN, and the types bound integers.
        """
        # Where every line begins an object and there are as many objects as lines, each line is one.
        after_first = lines.count(b'\n{"')
        is_plain = lines.startswith(b'{"') and lines.count(b"\n") == after_first
        if not is_plain or any(word in lines for word in _NOT_PLAIN):
            return None
        try:
            events: list[Progress] = _decode_plain(lines)
        except (msgspec.DecodeError, RecursionError):
            return None
        return events if len(events) == after_first + 1 else None


@hookimpl
def backprop_event_parser() -> EventParser:
    return JsonLines()


def parse_line(line: str) -> Sequence[Event] | None:
    """Turn `{"step": 500, "loss": 0.015, ...}` or `{"event": "checkpoint_saved", "path": ...}` into an event.

    Any other line is not ours. Values that are no finite numbers are handed on for the core to count and drop.
    """
    if not line.lstrip().startswith("{"):
        # A progress bar does not end its line: what is printed next stands right behind its bracket.
        _, bracket, line = line.partition("]{")
        if not bracket:
            return None
        line = "{" + line
    values = decode(line)
    if not isinstance(values, dict):
        return None
    if values.get("event") == "checkpoint_saved":
        return [CheckpointSaved(path=values.get("path", ""), step=values.get("step"))]
    metrics = {name: value for name, value in values.items() if name not in _NAMED and is_number(value)}
    progress = Progress(
        step=values.get("step"),
        total_steps=values.get("total_steps", values.get("totalSteps")),
        epoch=values.get("epoch"),
        loss=values.get("loss"),
        metrics=metrics,
    )
    return [progress] if progress != Progress() else None


def decode(line: str) -> Any:
    """Decode strict JSON quickly, and what Python's json.dumps writes (NaN, Infinity) with patience."""
    try:
        return _decode(line)
    except (msgspec.DecodeError, RecursionError):
        import json

        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
