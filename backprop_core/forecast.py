"""How many more time boxes a run takes, where it says how many steps or epochs there are."""

from __future__ import annotations

import math

from .budgets import active_s
from .clock import now_ms
from .records import Attempt, Record, RunRecord
from .states import RunState

TOTAL_EPOCHS = "total_epochs"
"""The metric that tells how many epochs there are."""
LEAST = {"step": 2, "epoch": 1}
"""Fewer steps or epochs than that tell no speed."""


class Goal(Record, frozen=True):
    """How far a run has come and how far it is to come, in its `unit`: "step" or "epoch"."""

    unit: str
    reached: float
    total: float


def goal_of(record: RunRecord) -> Goal | None:
    """Return where a run is to come: in steps where it tells how many there are, else in epochs.

    :returns: None where it tells neither.
    """
    told, step, epoch = record.metrics, record.last_step, record.metrics.get("epoch")
    if step is not None and (steps := told.get("totalSteps")):
        return Goal(unit="step", reached=step, total=steps)
    if epoch is not None and (epochs := told.get(TOTAL_EPOCHS)):
        return Goal(unit="epoch", reached=epoch, total=epochs)
    return None


def time_boxes_left(record: RunRecord, *, left_s: float | None = None, now: int | None = None) -> int | None:
    """Return how many more time boxes the run takes, after the one that is going on if there is one.

    The speed is that of the newest attempt that tells one, its start-up included, so that what each attempt spends
    on starting and on saving is counted. Steps that are lost at the end of a time box are not foreseen.

    :param left_s: What is left of the time box that is going on, in seconds; None is what its record says.
    :param now: In ms since 1970; None is this moment.
    :returns: None without a total, a speed, or a time box in the record; 0 where nothing is to be done any more.
    """
    goal = goal_of(record)
    if goal is None or "maxRunMinutes" not in record.settings:
        return None
    is_going_on = record.status in (RunState.RUNNING, RunState.PAUSED)
    if record.status is RunState.COMPLETED:
        return 0
    if goal.reached >= goal.total:
        return int(goal.unit == "epoch" and not is_going_on)  # an epoch that has begun is told as reached
    now = now_ms() if now is None else now
    speed = speed_in(record, goal.unit, now)
    if speed is None:
        return None
    box_s = record.limits.max_run_minutes * 60
    if is_going_on and left_s is None:
        left_s = max(0.0, box_s - active_s(record.attempts[-1], now))
    return max(0, math.ceil(((goal.total - goal.reached) / speed - (left_s or 0.0)) / box_s))


def speed_in(record: RunRecord, unit: str, now: int) -> float | None:
    """Return the speed, in units per second, of the newest attempt that has come some way; None where none has."""
    for attempt in reversed(record.attempts):
        first, last = _way(attempt, unit)
        if first is None or last is None:
            continue
        seconds = active_s(attempt, now)
        if last - first >= LEAST[unit] and seconds > 0:
            return (last - first) / seconds
    return None


def _way(attempt: Attempt, unit: str) -> tuple[float | None, float | None]:
    if unit == "step":
        return attempt.first_step, attempt.last_step
    return attempt.first_epoch, attempt.last_epoch


def in_words(count: int | None) -> str:
    """Write a forecast for a sentence; empty where there is none, or nothing is left to be done."""
    return f"about {count} more time box{'es' * (count != 1)}" if count else ""
