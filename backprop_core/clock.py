"""The two clocks: one to measure with, one to write down."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_s() -> float:
    """Seconds on the monotonic clock; only differences mean anything, and suspend does not count."""
    return time.monotonic()


def now_ms() -> int:
    """Milliseconds since 1970 (UTC), as records hold them."""
    return int(time.time() * 1000)


def as_datetime(ms: int) -> datetime:
    """Turn a record's milliseconds into an aware UTC datetime."""
    return datetime.fromtimestamp(ms / 1000, UTC)
