"""A clock that stands until a test sets it going."""

from __future__ import annotations

from datetime import datetime

import pytest

START = 1_800_000_000.0
"""Where it stands at first: 15 January 2027, 08:00 UTC, in seconds since 1970."""


class FakeClock:
    """The time that this process is told, in seconds; other processes have the real one.

    `now` is what `time.time` answers, `monotonic` what `time.monotonic` does; both stand still between calls.
    """

    def __init__(self) -> None:
        self.now = START
        self.monotonic = 1000.0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forth or back, as a time server does; no time passes."""
        self.now += seconds

    def set(self, moment: datetime) -> None:
        """Set the wall clock; a moment without a zone is local time."""
        self.now = moment.timestamp()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Answer for the functions of `time` in this process; a sleep takes no time, and lets it pass.

        `datetime.now()` cannot be replaced: code that is to be tested asks `time.time()`.
        """
        patch.setattr("time.time", lambda: self.now)
        patch.setattr("time.time_ns", lambda: int(self.now * 1e9))
        patch.setattr("time.monotonic", lambda: self.monotonic)
        patch.setattr("time.monotonic_ns", lambda: int(self.monotonic * 1e9))
        patch.setattr("time.sleep", self.advance)
