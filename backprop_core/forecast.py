"""How many more time boxes a run takes, where it says how many steps there are."""

from __future__ import annotations

import math

from .budgets import active_s
from .clock import now_ms
from .records import RunRecord
from .states import RunState

LEAST_STEPS = 2
"""Fewer than that tell no speed."""


def time_boxes_left(record: RunRecord, *, left_s: float | None = None, now: int | None = None) -> int | None:
    """Return how many more time boxes the run takes, after the one that is going on if there is one.

    The speed is that of the newest attempt that tells one, its start-up included, so that what each attempt spends
    on starting and on saving is counted. Steps that are lost at the end of a time box are not foreseen.

    :param left_s: What is left of the time box that is going on, in seconds; None is what its record says.
    :param now: In ms since 1970; None is this moment.
    :returns: None without a total, a speed, or a time box in the record; 0 where nothing is to be done any more.
    """
    total, step = record.metrics.get("totalSteps"), record.last_step
    if not total or step is None or "maxRunMinutes" not in record.settings:
        return None
    if record.status is RunState.COMPLETED or step >= total:
        return 0
    now = now_ms() if now is None else now
    speed = steps_per_s(record, now)
    if speed is None:
        return None
    box_s = record.limits.max_run_minutes * 60
    if record.status in (RunState.RUNNING, RunState.PAUSED) and left_s is None:
        left_s = max(0.0, box_s - active_s(record.attempts[-1], now))
    return max(0, math.ceil(((total - step) / speed - (left_s or 0.0)) / box_s))


def steps_per_s(record: RunRecord, now: int) -> float | None:
    """Return the speed of the newest attempt that has made some steps; None where none has."""
    for attempt in reversed(record.attempts):
        if attempt.first_step is None or attempt.last_step is None:
            continue
        steps = attempt.last_step - attempt.first_step
        seconds = active_s(attempt, now)
        if steps >= LEAST_STEPS and seconds > 0:
            return steps / seconds
    return None


def in_words(count: int | None) -> str:
    """Write a forecast for a sentence; empty where there is none, or nothing is left to be done."""
    return f"about {count} more time box{'es' * (count != 1)}" if count else ""
