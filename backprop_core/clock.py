"""The two clocks: one to measure with, one to write down."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


def now_s() -> float:
    """Seconds on the monotonic clock; only differences mean anything, and suspend does not count."""
    return time.monotonic()


def now_ms() -> int:
    """Milliseconds since 1970 (UTC), as records hold them."""
    return int(time.time() * 1000)


def as_datetime(ms: int) -> datetime:
    """Turn a record's milliseconds into an aware UTC datetime."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def next_moment(text: str, after_ms: int) -> int:
    """Return when a wall-clock time comes, in ms since 1970.

    :param text: "18:00" is the next such moment after `after_ms`; "2026-12-01 18:00" names its day, and may
        lie in the past. Both are local times, unless an offset stands behind the latter ("+01:00", "Z").
    :raises ValueError: for anything else.
    """
    if len(text) <= 5:
        hour, _, minute = text.partition(":")
        if not (hour.isdecimal() and minute.isdecimal() and len(minute) == 2):
            raise ValueError(f"{text!r} is no time of day")
        now = datetime.fromtimestamp(after_ms / 1000)  # noqa: DTZ006 - a local time, as people type it
        moment = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
        moment += timedelta(days=moment <= now)
    else:
        moment = datetime.fromisoformat(text)
    return int(moment.timestamp() * 1000)
