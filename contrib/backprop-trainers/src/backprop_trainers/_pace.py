"""When to report, and whether another epoch fits into the time box."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import Any

REPORT_EVERY_S = 0.2
MOST_AHEAD_SHARE = 0.25
"""An epoch longer than this share of the time box is stopped within, rather than not begun."""


class Pace:
    """Keeps the time of a training's epochs, in seconds."""

    def __init__(self) -> None:
        self._epoch_began: float | None = None
        self._longest_s = 0.0
        self._reported = -math.inf

    def begin_epoch(self) -> None:
        self._epoch_began = time.monotonic()

    def end_epoch(self) -> float:
        """Return how far to look ahead: the longest epoch so far, 0 for one that is long for its time box."""
        if self._epoch_began is not None:
            self._longest_s = max(self._longest_s, time.monotonic() - self._epoch_began)
        limit_s = float(os.environ.get("BACKPROP_MAX_RUN_SECONDS") or 0)
        return self._longest_s if self._longest_s <= MOST_AHEAD_SHARE * limit_s else 0.0

    def is_due(self) -> bool:
        """Tell whether it is time to report again; getting a loss off a GPU costs more than telling it."""
        now = time.monotonic()
        if now - self._reported < REPORT_EVERY_S:
            return False
        self._reported = now
        return True


def numbers_in(values: Mapping[str, Any] | None) -> dict[str, float]:
    """Pick what can be told as metrics; names that mean something else to Backprop are left out."""
    found = {}
    for name, value in (values or {}).items():
        item = getattr(value, "item", None)
        try:
            number = float(item() if callable(item) else value)
        except (TypeError, ValueError, RuntimeError):
            continue
        if name not in ("step", "total_steps", "epoch", "event", "path", "loss"):
            found[name] = number
    return found
