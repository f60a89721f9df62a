"""How long a run may go on: over all of its time boxes, and by the clock on the wall."""

from __future__ import annotations

from .clock import next_moment, now_ms
from .errors import UsageError
from .records import Attempt, RunRecord
from .settings import Settings

AROUND_MINUTES = 1.0
"""What starting, saving and recording may take around a time box."""


def is_series(settings: Settings) -> bool:
    """Tell whether more than one time box was asked for."""
    return settings.until_done or (settings.slices or 1) > 1


def active_s(attempt: Attempt, now: int | None = None) -> float:
    """Return how long an attempt has run, in seconds, without its pauses.

    :param now: In ms since 1970, for an attempt that has not ended; None is this moment.
    """
    end = attempt.end or now or now_ms()
    paused = sum((pause.end or end) - pause.begin for pause in attempt.pauses)
    return max(0.0, end - attempt.start - paused) / 1000


def used_s(record: RunRecord) -> float:
    """Return how long all attempts of a run that were made have taken, in seconds, without their pauses."""
    return sum(active_s(attempt) for attempt in record.attempts if attempt.status != "queued")


def left_s(settings: Settings, record: RunRecord, ends_at_ms: int | None) -> float | None:
    """Return the seconds that are left of `totalMinutes` and until the wall-clock end; None without either."""
    left = []
    if settings.total_minutes is not None:
        left.append(settings.total_minutes * 60 - used_s(record))
    if ends_at_ms is not None:
        left.append((ends_at_ms - now_ms()) / 1000)
    return max(0.0, min(left)) if left else None


def time_box_minutes(settings: Settings, record: RunRecord, ends_at_ms: int | None) -> float:
    """Return the time box of an attempt that starts now: `maxRunMinutes`, or less where less is left."""
    left = left_s(settings, record, ends_at_ms)
    return settings.max_run_minutes if left is None else min(settings.max_run_minutes, left / 60)


def job_minutes(settings: Settings, record: RunRecord, ends_at_ms: int | None) -> float | None:
    """Return how long an agent may take that starts now, in minutes, with what ends a time box and begins another.

    :returns: None where nothing bounds it, as with `untilDone` alone. Pauses, and waits between time boxes, are left
        out: nobody knows them before.
    """
    around = settings.stop_grace_seconds / 60 + AROUND_MINUTES
    boxes = None if settings.until_done and not settings.slices else (settings.slices or 1) + settings.retries
    left = left_s(settings, record, ends_at_ms)
    bounds = [boxes * (settings.max_run_minutes + around)] if boxes else []
    bounds += [] if left is None else [left / 60 + around]
    return min(bounds) if bounds else None


def wall_clock_end(settings: Settings, asked_at_ms: int) -> int | None:
    """Return when `until` comes, in ms since 1970; None without one."""
    return None if settings.until is None else next_moment(settings.until, asked_at_ms)


def check_left(settings: Settings, record: RunRecord, ends_at_ms: int | None) -> None:
    """See that a budget leaves time for an attempt.

    :raises UsageError: when it does not.
    """
    if ends_at_ms is not None and ends_at_ms <= now_ms():
        raise UsageError(f"{settings.until} is over", "give a later time with --until")
    if left_s(settings, record, None) == 0.0:
        raise UsageError(
            f"the {settings.total_minutes:g} minutes of run {record.id} in all are used up",
            "give it more with --total-minutes",
        )
