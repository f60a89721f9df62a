"""A script's output: bytes -> lines -> parsers -> events."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .alarm import Alarm
from .interfaces import EventParser
from .lines import Lines, Run, as_text, joined, runs_by_sign
from .patterns import pattern
from .plugins import Plugins, guarded
from .records import CheckpointSaved, Event, PluginFailure, Progress, ProgressBatch
from .signs import Signs

FEW_BYTES = 4 * 1024
SHORT_RUN_BYTES = 128
HOOK = "backprop_event_parser"
IMPATIENT = Alarm(idle_s=0.3, busy_s=2.0)
"""For parsers: requests, the watching and the script itself wait for them."""
_BEYOND_INT = 2**63
_UNSTORABLE = pattern("[\0\ud800-\udfff]")  # no storage keeps NUL and lone surrogates in text
_CONTROL = pattern(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|\x08+")


class _Asked:
    """A parser, and what it says of itself."""

    def __init__(self, parser: EventParser) -> None:
        self.parse = parser
        self.plugin = getattr(parser, "__module__", None) or type(parser).__name__
        self.parse_chunk: Callable[[bytes], Any] | None = getattr(parser, "parse_chunk", None)
        self.signs: tuple[bytes, ...] = ()
        self.is_out = False

    def look_for(self) -> None:
        """Note what it looks for, which may depend on what it has read."""
        signs = tuple(getattr(self.parse, "signs", ()))
        if not all(isinstance(sign, bytes) for sign in signs):
            raise TypeError("its signs are not all bytes")
        self.signs = signs

    def has_sign(self, lines: bytes) -> bool:
        return not self.signs or any(sign in lines for sign in self.signs)


class _Batch:
    """Lines that are offered to one parser after the other; `left` numbers those that nobody has answered yet."""

    def __init__(self, lines: bytes) -> None:
        self.texts = as_text(lines)
        if b"\x1b" in lines or b"\x08" in lines:
            self.texts = [_CONTROL.sub("", text) for text in self.texts]
        self.answers: list[Sequence[Event] | None] = [None] * len(self.texts)
        self.left: Sequence[int] = range(len(self.texts))

    @property
    def is_untouched(self) -> bool:
        return len(self.left) == len(self.texts)

    def offer(self, parser: EventParser) -> None:
        """Call a parser for each line that is left."""
        answers = self.answers
        for number in self.left:
            answer = parser(self.texts[number])
            if answer is not None:
                if not isinstance(answer, list | tuple):
                    raise TypeError(f"it answered {type(answer).__name__}, not events")
                answers[number] = answer

    def settle(self) -> None:
        """Take those that were answered out of those that are left."""
        self.left = [number for number in self.left if self.answers[number] is None]


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
        if not lines or not self._parsers:
            return []
        first, *others = self._parsers
        self._call(first, first.look_for, alarm=None)
        is_offered_first = bool(first.parse_chunk) and not first.is_out and first.has_sign(lines)
        if is_offered_first and (events := self._read_as_one(lines, first)) is not None:
            return events
        for parser in others:
            self._call(parser, parser.look_for, alarm=None)
        if is_offered_first:
            return self._read_parts(lines, first, others)
        return self._offer(lines, self._wanting(lines, [first, *others]))

    def _wanting(self, lines: bytes, parsers: Sequence[_Asked]) -> list[_Asked]:
        """Leave out the parsers that have nothing to look for in these lines."""
        signs = _signs(frozenset(sign for parser in parsers for sign in parser.signs))
        found = signs.found_in(lines)
        return [
            parser
            for parser in parsers
            if not parser.is_out and (not parser.signs or not found.isdisjoint(parser.signs))
        ]

    def _offer(self, lines: bytes, parsers: Sequence[_Asked], *, is_by_line: bool = False) -> Sequence[Event]:
        """Offer each line to the parsers in their order; the first that answers has it.

        Parsers are asked a batch at a time, because guarding every call would cost more than the calls; one that
        reads many lines at once, all together where nobody before it took any.
        """
        batch: _Batch | None = None
        for place, parser in enumerate(parsers):
            if not is_by_line and parser.parse_chunk and (batch is None or batch.is_untouched):
                return self._read_chunk(lines, parser, parsers[place + 1 :])
            batch = batch or _Batch(lines)
            self._call(parser, batch.offer, parser.parse)
            batch.settle()
            if not batch.left:
                break
        answers = batch.answers if batch else ()
        return [
            kept for answer in answers for event in answer or () if (kept := self._clean(event)) is not None
        ]

    def _read_chunk(self, lines: bytes, first: _Asked, others: Sequence[_Asked]) -> Sequence[Event]:
        events = self._read_as_one(lines, first)
        return self._read_parts(lines, first, others) if events is None else events

    def _read_parts(self, lines: bytes, first: _Asked, others: Sequence[_Asked]) -> Sequence[Event]:
        """Let a parser that cannot read all lines at once read those with a sign of its own."""
        runs = runs_by_sign(lines, first.signs)
        if len(runs) > 1:
            return self._read_runs(lines, runs, first, others)
        return self._read_halves(lines, first, others)

    def _read_own(self, lines: bytes, first: _Asked, others: Sequence[_Asked]) -> Sequence[Event]:
        events = self._read_as_one(lines, first)
        return self._read_halves(lines, first, others) if events is None else events

    def _read_halves(self, lines: bytes, first: _Asked, others: Sequence[_Asked]) -> Sequence[Event]:
        """Read each half at once, or half of that; the few lines around an odd one are offered one by one."""
        middle = lines.find(b"\n", len(lines) // 2) if len(lines) > FEW_BYTES else -1
        if middle < 0 or first.is_out:
            return self._offer(lines, self._wanting(lines, [first, *others]), is_by_line=True)
        halves = (lines[:middle], lines[middle + 1 :])
        return [event for half in halves for event in self._read_own(half, first, others)]

    def _read_runs(
        self, lines: bytes, runs: Sequence[Run], first: _Asked, others: Sequence[_Asked]
    ) -> Sequence[Event]:
        """Read the lines with a sign of the first parser's by themselves, and those between, if anybody wants them."""
        between = joined(runs, has_sign=False)
        wanting = self._wanting(between, others) if between else []
        if not wanting:
            return self._read_own(joined(runs, has_sign=True), first, others)
        if len(runs) * SHORT_RUN_BYTES > len(lines):
            return self._offer(lines, [first, *others], is_by_line=True)
        events: list[Event] = []
        for has_sign, run in runs:
            if has_sign:
                events += self._read_own(run, first, others)
            else:
                events += self._offer(run, wanting, is_by_line=True)
        return events

    def _read_as_one(self, lines: bytes, first: _Asked) -> Sequence[Event] | None:
        """Let a parser read all lines; None when it cannot."""
        events: Sequence[Event] | None = (
            None if first.is_out else self._call(first, _parse_chunk, first, lines)
        )
        if not events:
            return None
        steps = (event.step for event in reversed(events) if event.step is not None)
        self._step = next(steps, self._step)
        return events

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
            parser.is_out = True
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
    if events is None or isinstance(events, ProgressBatch):
        return events
    if not set(map(type, events)) <= {Progress, CheckpointSaved}:
        raise TypeError("parse_chunk answered something else than events")
    return events


@lru_cache(maxsize=16)  # what parsers look for changes seldom, and to and fro
def _signs(signs: frozenset[bytes]) -> Signs:
    return Signs(signs)


def collect_parsers(plugins: Plugins, run: object) -> list[EventParser]:
    """Ask the plugins for their parsers, in the order in which lines are offered to them."""
    return plugins.parts("backprop_event_parser", run=run)
