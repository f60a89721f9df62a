"""What a person sees while a run goes on: nothing, plain lines, or a live panel."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from backprop_core.units import escape
from backprop_core.view import Snapshot

from .app import say
from .outlet import Outlet
from .text import presentable

if TYPE_CHECKING:
    from .harmless import HarmlessStream


class SilentView:
    """For an agent that nobody watches: lines of ours go to stderr, which is its log."""

    every_s = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def tell(self, text: str) -> None:
        say(text)

    def output(self, data: bytes) -> None:
        """The script's output is in its log."""

    def is_behind(self) -> bool:
        return False

    def show(self, snapshot: Snapshot) -> None:
        """Nobody is looking."""

    def waiting(self, reasons: Sequence[str], place: int, total: int) -> None:
        """The record says it."""

    def suspend(self) -> None:
        """There is no terminal to let go of."""

    def resume(self) -> None:
        """There is no terminal to take back."""


class PlainView(SilentView):
    """For pipes, files and `--plain`: the script's output as it is, harmless on a terminal; our lines on stderr."""

    def __init__(self) -> None:
        self._out: Outlet | None = None
        self._err: Outlet | None = None
        self._harmless: HarmlessStream | None = None
        self._waiting_for: tuple[object, ...] = ()

    def __enter__(self) -> Self:
        self._out, self._err = Outlet(sys.stdout), Outlet(sys.stderr)
        if sys.stdout.isatty():
            from .harmless import HarmlessStream

            self._harmless = HarmlessStream()
        return self

    def __exit__(self, *_: object) -> None:
        if self._out and self._harmless:
            self._out.write(self._harmless.feed(b"", is_last=True))
        for outlet in (self._out, self._err):
            if outlet:
                outlet.finish()

    def tell(self, text: str) -> None:
        if self._err is None:
            say(text)
        else:
            self._err.write(f"backprop: {presentable(text)}\n".encode("utf-8", "replace"))

    def output(self, data: bytes) -> None:
        """Pass output on."""
        if self._out:
            self._out.write(self._harmless.feed(data) if self._harmless else data)

    def is_behind(self) -> bool:
        return self._out is not None and self._out.is_behind()

    def waiting(self, reasons: Sequence[str], place: int, total: int) -> None:
        """Say why and where in the queue, when either changes."""
        now = (tuple(reasons), place, total)
        if reasons and now != self._waiting_for:
            self.tell(f"waiting (place {place} of {total}): {'; '.join(reasons)}")
        self._waiting_for = now


class VerboseView(PlainView):
    """Says the first snapshot's choices, too."""

    def __init__(self) -> None:
        super().__init__()
        self._has_told = False

    def show(self, snapshot: Snapshot) -> None:
        if self._has_told:
            return
        self._has_told = True
        record = snapshot.record
        self.tell(
            f"run {record.id}: python {record.python}, framework {record.framework or 'none recognised'}"
        )
        gpus = ", ".join(f"{gpu.index} {escape(gpu.name or '')}" for gpu in record.gpus)
        self.tell(f"GPUs: {gpus or 'none'}; time box {record.limits.max_run_minutes:g} minutes")


def choose_view(*, plain: bool, verbose: bool) -> PlainView:
    """Choose the live panel where a person can see it."""
    is_terminal = sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if verbose:
        return VerboseView()
    if plain or not is_terminal:
        return PlainView()
    from .live import LiveView

    return LiveView()
