"""Time box after time box: what follows an attempt's end, and the loop that brings it about.

Between two time boxes the run gives its slot up and queues for the next one, so that those who wait have their
turn; its record says `queued` then, and whoever stops it there ends the series.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from . import attempt, registry
from .budgets import is_series, left_s
from .causes import RETRIED
from .clock import now_ms
from .errors import RefusedError, StorageError
from .interfaces import Storage
from .interrupts import Interrupted
from .opening import Opened
from .records import Attempt, Record, RunRecord
from .settings import Settings
from .states import RunState
from .terms import STOPPED_WITH, GoesOn, Order, Result
from .view import View

UNSEEN = "neither steps nor checkpoints show that the script goes on where it was; --slices N runs it N times"
LEAST_LEFT_S = 1.0
"""With less than that left of a budget no further time box begins."""


class Series(Record, frozen=True):
    """How far a series may go.

    `most` is the number of time boxes, None for as many as it takes; `first` is the place of its first attempt
    among those of the run, from 0. `left_s` is what the budgets leave, None without any.
    """

    most: int | None = 1
    retries: int = 0
    first: int = 0
    left_s: float | None = None


class Next(Record, frozen=True):
    """Whether another time box follows, and why (not); `why` is empty where there is nothing to say."""

    goes_on: bool
    why: str = ""


def run(order: Order, opened: Opened, view: View) -> Result:
    """Run time boxes until the run is done, or until nothing speaks for another one.

    :raises BackpropError: as the first attempt does; from the second on the record stays as the last one left it.
    """
    settings = order.resolved.settings
    if not is_series(settings) and not settings.retries:
        return attempt.run(order, opened.plugins, opened.storage, view)
    first = len(registry.earlier_attempts(order.record))

    def goes_on(record: RunRecord) -> str | None:
        found = what_next(series_of(settings, first, left_s(settings, record, order.ends_at_ms)), record)
        if found.why:
            view.tell(found.why)
        return found.why if found.goes_on else None

    with attempt.interruptible():
        result = attempt.run(order, opened.plugins, opened.storage, view, goes_on)
        while result.goes_on:
            result = _go_on(order, result, opened, view, goes_on)
    return result


def series_of(settings: Settings, first: int, left: float | None) -> Series:
    """Describe the series that the settings ask for."""
    most = settings.slices or (None if settings.until_done else 1)
    return Series(most=most, retries=settings.retries, first=first, left_s=left)


def _go_on(order: Order, result: Result, opened: Opened, view: View, goes_on: GoesOn) -> Result:
    """Run the next time box; what keeps it from beginning ends the series."""
    from .resuming import next_order

    storage = opened.storage
    try:
        if result.asked:
            raise Interrupted(STOPPED_WITH[result.asked], result.asked)
        following = next_order(order, result.record, opened, view)
        return attempt.run(following, opened.plugins, storage, view, goes_on)
    except Interrupted as interrupted:
        return Result(record=_stopped(storage, result, interrupted.why), exit_code=interrupted.exit_code)
    except RefusedError as refused:  # its last moment has come
        view.tell(f"no further time box: {refused.reasons[0]}")
        return msgspec.structs.replace(result, record=_let_go(storage, result), goes_on=None)
    except BaseException:
        with suppress(StorageError):  # what went wrong first is told
            _let_go(storage, result)
        raise


def _stopped(storage: Storage, result: Result, why: str) -> RunRecord:
    """Save that the run was stopped between two time boxes; one that has ended by then stays as it is."""
    current = storage.get(result.record.id) or result.record
    record = _let_go(storage, result)
    if current.status is not RunState.QUEUED and len(current.attempts) > len(result.record.attempts):
        return record
    reason = f"{why}, between two time boxes"
    record = registry.changed(record, status=RunState.STOPPED, reason=reason, end_time=now_ms())
    storage.save(record)
    return record


def _let_go(storage: Storage, result: Result) -> RunRecord:
    """See that the record does not say any more that the run waits for its turn."""
    record = storage.get(result.record.id) or result.record
    if record.status is RunState.QUEUED:
        record = registry.before_queued(record) or result.record
        storage.save(record)
    return record


# --- what follows an end ------------------------------------------------------------------------


def what_next(series: Series, record: RunRecord) -> Next:
    """Tell from how the newest attempt ended whether another one follows."""
    made = record.attempts[series.first :]
    newest = made[-1]
    if newest.status is RunState.TIMEBOXED:
        return _after_a_time_box(series, made)
    if newest.status is RunState.FAILED or newest.cause is not None:
        return _after_a_failure(series, record, made)
    return Next(goes_on=False)


def _after_a_time_box(series: Series, made: Sequence[Attempt]) -> Next:
    count = sum(one.status is RunState.TIMEBOXED for one in made)
    if series.most is not None and count >= series.most:
        return Next(goes_on=False)
    if series.left_s is not None and series.left_s < LEAST_LEFT_S:
        return Next(goes_on=False, why="no further time box: the time that the run was given is used up")
    if len(made) > 1 and made[-2].status is RunState.TIMEBOXED:
        advanced = has_advanced(made[-2], made[-1])
        if advanced is False:
            return Next(goes_on=False, why="no further time box: the last two have come no further")
        if advanced is None and series.most is None:
            return Next(goes_on=False, why=f"no further time box: {UNSEEN}")
    of = "" if series.most is None else f" of {series.most}"
    at = "" if made[-1].last_step is None else f", at step {made[-1].last_step}"
    return Next(goes_on=True, why=f"time box {count}{of} is over{at}; the next one follows")


def _after_a_failure(series: Series, record: RunRecord, made: Sequence[Attempt]) -> Next:
    failures = [one for one in made if one.status is not RunState.TIMEBOXED]
    newest, count = failures[-1], len(failures)
    if not series.retries:
        return Next(goes_on=False)
    if newest.cause not in RETRIED:
        return Next(goes_on=False, why=f"no retry: it would fail again ({newest.reason})")
    if count > series.retries:
        return Next(goes_on=False, why=f"no retry: all {series.retries} were used")
    if count > 1 and not has_advanced_since(record.attempts, failures[-2]):
        return Next(goes_on=False, why="no retry: the step has not advanced since the last failure")
    if series.left_s is not None and series.left_s < LEAST_LEFT_S:
        return Next(goes_on=False, why="no retry: the time that the run was given is used up")
    return Next(goes_on=True, why=f"retry {count} of {series.retries} after a failure: {newest.reason}")


def has_advanced(before: Attempt, newest: Attempt) -> bool | None:
    """Tell whether an attempt began and ended further on than the one before it.

    Where steps are not known, epochs tell, and where they do not, having saved counts; None where nothing is known.
    """
    if newest.last_step is not None and before.last_step is not None:
        begins_further = (newest.first_step or 0) > (before.first_step or 0)
        return begins_further and newest.last_step > before.last_step
    if (advanced := _has_advanced_in_epochs(before, newest)) is not None:
        return advanced
    return True if newest.saves or newest.last_step is not None else None


def _has_advanced_in_epochs(before: Attempt, newest: Attempt) -> bool | None:
    """Tell the same from epochs; None for an attempt that stayed within one, where they tell nothing."""
    first, last = before.first_epoch, before.last_epoch
    if (
        first is None
        or last is None
        or first == last
        or newest.first_epoch is None
        or newest.last_epoch is None
    ):
        return None
    return newest.first_epoch > first and newest.last_epoch >= last


def has_advanced_since(attempts: Sequence[Attempt], failure: Attempt) -> bool:
    """Tell whether a later attempt has reached a step, or an epoch, beyond all those up to a failure."""
    place = attempts.index(failure) + 1
    earlier, later = attempts[:place], attempts[place:]
    if any(one.last_step is not None for one in later):
        return _furthest(one.last_step for one in later) > _furthest(one.last_step for one in earlier)
    return _furthest(one.last_epoch for one in later) > _furthest(one.last_epoch for one in earlier)


def _furthest(reached: Iterable[float | None]) -> float:
    return max((one for one in reached if one is not None), default=-1)
