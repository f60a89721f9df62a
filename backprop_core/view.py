"""How a running attempt stands, and where a person looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .records import Machine, Record, RunRecord


class Snapshot(Record, frozen=True):
    """How a running attempt stands, for display. `deadline_s` is on the monotonic clock."""

    record: RunRecord
    deadline_s: float
    machine: Machine | None = None
    phase: str = ""
    started_s: float = 0.0
    paused_s: float | None = None


class View(Protocol):
    """Where a person looks: the command line implements it."""

    every_s: float
    """How often it is to be shown how the run stands. Requests are looked for as often; a second is soon enough,
    since whoever asks on this machine rings as well."""

    def tell(self, text: str) -> None:
        """Show a line of ours."""

    def output(self, data: bytes) -> None:
        """Show what the script printed."""

    def is_behind(self) -> bool:
        """Try for a moment to show what could not be shown at once; tell whether some is still left."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """Show how the run stands."""

    def waiting(self, reasons: Sequence[str], place: int, total: int) -> None:
        """Show why the run has not started yet; without reasons the wait is over."""

    def suspend(self) -> None:
        """Let go of the terminal for Ctrl-Z."""

    def resume(self) -> None:
        """Take the terminal back."""
