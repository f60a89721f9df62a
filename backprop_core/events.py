"""A script's output: bytes -> lines -> parsers -> events."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .alarm import Alarm
from .interfaces import EventParser
from .plugins import Plugins, guarded
from .records import CheckpointSaved, Event, PluginFailure, Progress, ProgressBatch

LINE_CAP_BYTES = 64 * 1024
FEW_BYTES = 4 * 1024
HOOK = "backprop_event_parser"
IMPATIENT = Alarm(idle_s=0.3, busy_s=2.0)
"""For parsers: requests, the watching and the script itself wait for them."""
_BEYOND_INT = 2**63
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # no storage keeps NUL and lone surrogates in text
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|\x08+")


class Lines:
    r"""Cuts output into lines of text at `\n` and `\r`, whatever the boundaries of the reads.

    A line longer than 64 KiB is dropped and counted in `dropped`; bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self.dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that this chunk completes, without their ends; empty ones are left out."""
        return as_text(self.cut(data))

    def cut(self, data: bytes) -> bytes:
        r"""Return the lines that this chunk completes, as they are, with `\n` between them."""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        whole, end, rest = data.rpartition(b"\n")
        if not end:
            self._keep(self._rest + rest)
            return b""
        whole = self._rest + whole if self._rest else whole
        if self._skipping:
            _, _, whole = whole.partition(b"\n")
            self._skipping = False
        self._rest = b""
        self._keep(rest)
        return self._without_overlong(whole) if len(whole) > LINE_CAP_BYTES else whole

    def end(self) -> bytes:
        """Return what stands after the last line end."""
        return self.cut(b"\n")

    def _keep(self, rest: bytes) -> None:
        if self._skipping or len(rest) > LINE_CAP_BYTES:
            self.dropped += not self._skipping
            self._skipping, rest = True, b""
        self._rest = rest

    def _without_overlong(self, whole: bytes) -> bytes:
        if not _has_overlong(whole):
            return whole
        lines = whole.split(b"\n")
        kept = [line for line in lines if len(line) <= LINE_CAP_BYTES]
        self.dropped += len(lines) - len(kept)
        return b"\n".join(kept)


def _has_overlong(lines: bytes) -> bool:
    """Leap from line end to line end, as far as a line may be long."""
    begin = 0
    while begin + LINE_CAP_BYTES < len(lines):
        end = lines.rfind(b"\n", begin, begin + LINE_CAP_BYTES + 1)
        if end < 0:
            return True
        begin = end + 1
    return False


def as_text(lines: bytes) -> list[str]:
    """Decode lines, leaving empty ones out."""
    return [line for line in lines.decode("utf-8", "replace").split("\n") if line]


class _Asked:
    """A parser, and what it says of itself."""

    def __init__(self, parser: EventParser) -> None:
        self.parse = parser
        self.plugin = getattr(parser, "__module__", None) or type(parser).__name__
        self.parse_chunk: Callable[[bytes], Any] | None = getattr(parser, "parse_chunk", None)

    def has_sign(self, lines: bytes) -> bool:
        """Tell whether it may find a line of its own here; what it looks for may depend on what it has read."""
        signs = getattr(self.parse, "signs", ())
        return not signs or any(sign in lines for sign in signs)


class EventReader:
    """Asks the parsers, line by line, and lets nothing pass that must not be stored.

    A parser that fails, or keeps the output waiting, is named in `failures` and not asked again. `rejected`
    counts values that were left out: non-finite numbers, integers beyond 64 bits, paths and names that cannot
    be stored.
    """

    def __init__(self, parsers: Sequence[EventParser], cwd: Path) -> None:
        self._parsers = [_Asked(parser) for parser in parsers]
        self._cwd = cwd
        self._lines = Lines()
        self._step: int | None = None
        self.rejected = 0
        self.failures: list[PluginFailure] = []

    @property
    def dropped_lines(self) -> int:
        """How many lines were too long to be read."""
        return self._lines.dropped

    def feed(self, data: bytes) -> Sequence[Event]:
        """Return the events that this chunk of output completes."""
        return self._read(self._lines.cut(data))

    def end(self) -> Sequence[Event]:
        """Return the events in what stands after the last line end."""
        return self._read(self._lines.end())

    def _read(self, lines: bytes) -> Sequence[Event]:
        """Read lines all at once, else each half of them so, and the few around an odd one line by line."""
        first = self._parsers[0] if self._parsers else None
        if not lines or first is None:
            return []
        if first.parse_chunk is None or not self._has_sign(first, lines):
            return self._read_by_line(lines)
        if (events := self._read_as_one(first, lines)) is not None:
            return events
        middle = lines.find(b"\n", len(lines) // 2) if len(lines) > FEW_BYTES else -1
        if middle < 0:
            return self._read_by_line(lines)
        return [*self._read(lines[:middle]), *self._read(lines[middle + 1 :])]

    def _read_as_one(self, first: _Asked, lines: bytes) -> Sequence[Event] | None:
        """Let the parser that is asked first read all lines; None when it cannot."""
        events: Sequence[Event] | None = self._call(first, _parse_chunk, first, lines)
        if not events:
            return None
        steps = (event.step for event in reversed(events) if event.step is not None)
        self._step = next(steps, self._step)
        return events

    def _read_by_line(self, lines: bytes) -> list[Event]:
        texts = as_text(lines)
        if b"\x1b" in lines or b"\x08" in lines:
            texts = [_CONTROL.sub("", text) for text in texts]
        answers = self._ask(lines, texts)
        return [
            kept for answer in answers for event in answer or () if (kept := self._clean(event)) is not None
        ]

    def _ask(self, lines: bytes, texts: Sequence[str]) -> list[Sequence[Event] | None]:
        """Offer each line to the parsers in their order; the first that answers has it.

        Parsers are asked a batch at a time, because guarding every call would cost more than the calls.
        """
        answers: list[Sequence[Event] | None] = [None] * len(texts)
        left: Sequence[int] = range(len(texts))
        for parser in list(self._parsers):
            if not self._has_sign(parser, lines):
                continue
            self._call(parser, _parse_batch, parser.parse, texts, left, answers)
            left = [number for number in left if answers[number] is None]
            if not left:
                break
        return answers

    def _has_sign(self, parser: _Asked, lines: bytes) -> bool:
        return bool(self._call(parser, parser.has_sign, lines, alarm=None))

    def _call(
        self,
        parser: _Asked,
        function: Callable[..., Any],
        *arguments: object,
        alarm: Alarm | None = IMPATIENT,
    ) -> Any:
        """Call a parser; None, and never again, when it fails."""
        value, failure = guarded(parser.plugin, HOOK, function, *arguments, alarm=alarm)
        if failure:
            self.failures.append(failure)
            self._parsers.remove(parser)
        return value

    def _clean(self, event: Event) -> Event | None:
        if isinstance(event, CheckpointSaved):
            return self._clean_checkpoint(event)
        if not isinstance(event, Progress):
            self.rejected += 1
            return None
        step, loss = self._whole(event.step), self._finite(event.loss)
        if step is not None:
            self._step = step
        epoch, total = self._finite(event.epoch), self._whole(event.total_steps)
        metrics = self._clean_metrics(event.metrics)
        if step is None and loss is None and epoch is None and not metrics:
            return None
        at = self._whole(event.at)
        return Progress(step=step, total_steps=total, epoch=epoch, loss=loss, metrics=metrics, at=at)

    def _clean_metrics(self, metrics: object) -> dict[str, float]:
        if not isinstance(metrics, Mapping):
            self.rejected += 1
            return {}
        kept: dict[str, float] = {}
        for name, value in metrics.items():
            number = self._finite(value)
            if number is not None and self._is_storable(name):
                kept[name] = number
        return kept

    def _clean_checkpoint(self, event: CheckpointSaved) -> CheckpointSaved | None:
        if not self._is_storable(event.path or None):
            return None
        step = self._whole(event.step)
        path = os.path.normpath(os.path.join(self._cwd, event.path))
        return CheckpointSaved(path=path, step=self._step if step is None else step)

    def _is_storable(self, text: object) -> bool:
        is_storable = isinstance(text, str) and not _UNSTORABLE.search(text)
        self.rejected += not is_storable
        return is_storable

    def _finite(self, value: object) -> float | None:
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                if math.isfinite(value):
                    return float(value)
            except OverflowError:
                pass
        self.rejected += 1
        return None

    def _whole(self, value: object) -> int | None:
        number = self._finite(value)
        if number is None:
            return None
        whole = value if isinstance(value, int) else int(number)
        is_whole = isinstance(value, int) or whole == number
        if not is_whole or not -_BEYOND_INT <= whole < _BEYOND_INT:
            self.rejected += 1
            return None
        return whole


def _parse_chunk(parser: _Asked, lines: bytes) -> Sequence[Event] | None:
    """Ask for all lines at once, and hold the answer to its kind: what is in it is not checked one by one."""
    assert parser.parse_chunk is not None
    events: Sequence[Event] | None = parser.parse_chunk(lines)
    allowed = {Progress} if isinstance(events, ProgressBatch) else {Progress, CheckpointSaved}
    if events is not None and not set(map(type, events)) <= allowed:
        raise TypeError("parse_chunk answered something else than events")
    return events


def _parse_batch(
    parser: EventParser, texts: Sequence[str], numbers: Sequence[int], answers: list[Sequence[Event] | None]
) -> None:
    for number in numbers:
        answer = parser(texts[number])
        if not isinstance(answer, list | tuple | None):
            raise TypeError(f"it answered {type(answer).__name__}, not events")
        answers[number] = answer


def collect_parsers(plugins: Plugins, run: object) -> list[EventParser]:
    """Ask the plugins for their parsers, in the order in which lines are offered to them."""
    return plugins.parts("backprop_event_parser", run=run)
