"""Read progress and checkpoints from the JSON objects that a script prints, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from backprop_core import CheckpointSaved, Event, EventParser, Progress, ProgressBatch, hookimpl

from ._alike import NOT_PLAIN, first_lines, parse_alike

_NAMED = {"step", "total_steps", "totalSteps", "epoch", "loss", "event", "path"}
_HEAD_BYTES = 256
"""Output of many kinds shows that in its first lines."""
_decode = msgspec.json.Decoder().decode
_NOT_NAMED = (b'"metrics"', b'"at"', b'"totalSteps"', b"null")
"""Names that mean something else in a record, a total that may be told twice, objects that may say nothing."""
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_decode_numbers = msgspec.json.Decoder(dict[str, _Int64 | float]).decode_lines


class JsonLines:
    """Reads one line, or a whole chunk of plain lines at once."""

    signs = (b"{",)

    def __call__(self, line: str) -> Sequence[Event] | None:
        return parse_line(line)

    def parse_chunk(self, lines: bytes) -> Sequence[Event] | None:
        """Decode lines that are all objects of numbers; None when there is any other among them.

        What this lets through needs no further check: strict JSON has no NaN, and the types bound integers.
        """
        head = first_lines(lines, _HEAD_BYTES)
        if not head.startswith(b'{"') or head.count(b"\n") != head.count(b'\n{"'):
            return None
        if (alike := parse_alike(lines)) is not None:
            return alike
        # Where every line begins an object and there are as many objects as lines, each line is one.
        after_first = lines.count(b'\n{"')
        if lines.count(b"\n") != after_first or b"\\" in lines:
            return None
        events = _parse_named(lines) or _parse_numbers(lines)
        return events if events is not None and len(events) == after_first + 1 else None


@hookimpl
def backprop_event_parser() -> EventParser:
    return JsonLines()


def _parse_named(lines: bytes) -> ProgressBatch | None:
    """Decode lines that hold nothing but named numbers, straight into events."""
    try:
        batch = ProgressBatch.read(lines.replace(b'"total_steps"', b'"totalSteps"'))
    except NOT_PLAIN:
        return None
    return None if any(word in lines for word in _NOT_NAMED) else batch


def _parse_numbers(lines: bytes) -> Sequence[Event] | None:
    """Decode lines that hold other numbers, too, which are metrics."""
    try:
        return [_progress_of(values) for values in _decode_numbers(lines)]
    except NOT_PLAIN:
        return None


def _progress_of(values: dict[str, int | float]) -> Progress:
    """Make an event of an object's numbers, which it takes out of it.

    :raises ValueError: for one that says nothing, or a fraction of a step: these are to be looked at alone.
    """
    take = values.pop
    step, total, also_total = take("step", None), take("total_steps", None), take("totalSteps", None)
    epoch, loss = take("epoch", None), take("loss", None)
    total = also_total if total is None else total
    if type(step) is float or type(total) is float or "event" in values or "path" in values:
        raise ValueError("not plain")
    if step is None and epoch is None and loss is None and not values:
        raise ValueError("empty")
    return Progress(
        step=step,  # type: ignore[arg-type]  # no float, as seen above
        total_steps=total,  # type: ignore[arg-type]
        epoch=None if epoch is None else float(epoch),
        loss=None if loss is None else float(loss),
        metrics={name: float(value) for name, value in values.items()},
    )


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
