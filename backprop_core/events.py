"""A script's output: bytes -> lines -> parsers -> events."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from .interfaces import EventParser
from .plugins import Plugins, guarded
from .records import CheckpointSaved, Event, PluginFailure, Progress

LINE_CAP_BYTES = 64 * 1024
_MOST_INT = 2**63 - 1
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
        if b"\r" in data:
            data = data.replace(b"\r", b"\n")
        *whole, rest = (self._rest + data).split(b"\n")
        if self._skipping and whole:
            del whole[0]
            self._skipping = False
        if self._skipping or len(rest) > LINE_CAP_BYTES:
            self.dropped += not self._skipping
            self._skipping, rest = True, b""
        self._rest = rest
        if any(len(line) > LINE_CAP_BYTES for line in whole):
            kept = [line for line in whole if len(line) <= LINE_CAP_BYTES]
            self.dropped += len(whole) - len(kept)
            whole = kept
        return [line for line in b"\n".join(whole).decode("utf-8", "replace").split("\n") if line]

    def end(self) -> list[str]:
        """Return what stands after the last line end."""
        return self.feed(b"\n")


class EventReader:
    """Asks the parsers, line by line, and lets nothing pass that must not be stored.

    `rejected` counts values that were left out: non-finite numbers, integers beyond 64 bits, paths with NUL.
    """

    def __init__(self, parsers: Sequence[EventParser], cwd: Path) -> None:
        self._parsers = list(parsers)
        self._cwd = cwd
        self._lines = Lines()
        self._step: int | None = None
        self.rejected = 0
        self.failures: list[PluginFailure] = []

    @property
    def dropped_lines(self) -> int:
        """How many lines were too long to be read."""
        return self._lines.dropped

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that this chunk of output completes."""
        return self._read(self._lines.feed(data))

    def end(self) -> list[Event]:
        """Return the events in what stands after the last line end."""
        return self._read(self._lines.end())

    def _read(self, lines: Sequence[str]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            text = _CONTROL.sub("", line) if "\x1b" in line or "\b" in line else line
            events += [kept for event in self._ask(text) if (kept := self._clean(event)) is not None]
        return events

    def _ask(self, line: str) -> Sequence[Event]:
        for parser in self._parsers:
            answer, failure = guarded(_module_of(parser), "backprop_event_parser", parser, line)
            if failure:
                self.failures.append(failure)
                self._parsers.remove(parser)
                return self._ask(line)
            if answer is not None:
                return answer if isinstance(answer, list | tuple) else ()
        return ()

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
        kept = {name: self._finite(value) for name, value in event.metrics.items()}
        metrics = {name: value for name, value in kept.items() if value is not None}
        if step is None and loss is None and epoch is None and not metrics:
            return None
        return Progress(step=step, total_steps=total, epoch=epoch, loss=loss, metrics=metrics, at=event.at)

    def _clean_checkpoint(self, event: CheckpointSaved) -> CheckpointSaved | None:
        if not isinstance(event.path, str) or not event.path or "\0" in event.path:
            self.rejected += 1
            return None
        step = self._whole(event.step)
        path = os.path.normpath(os.path.join(self._cwd, event.path))
        return CheckpointSaved(path=path, step=self._step if step is None else step)

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
        if number is None or value is None:
            return None
        if number != int(number) or abs(int(number)) > _MOST_INT:
            self.rejected += 1
            return None
        return value if isinstance(value, int) else int(number)


def _module_of(parser: EventParser) -> str:
    return getattr(parser, "__module__", None) or type(parser).__name__


def collect_parsers(plugins: Plugins, run: object) -> list[EventParser]:
    """Ask the plugins for their parsers, in the order in which lines are offered to them."""
    return plugins.parts("backprop_event_parser", ["__call__"], run=run)
