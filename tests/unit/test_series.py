"""What follows the end of an attempt."""

from __future__ import annotations

import pytest

from backprop_core.causes import RETRIED, Cause
from backprop_core.records import Attempt, RunRecord
from backprop_core.series import Series, has_advanced, what_next
from backprop_core.states import RunState

ENDLESS = Series(most=None)


def boxed(first: int | None, last: int | None, saves: int = 1) -> Attempt:
    return Attempt(start=0, end=1, status=RunState.TIMEBOXED, first_step=first, last_step=last, saves=saves)


def failed(last: int | None, cause: Cause = Cause.SCRIPT, start: int = 0) -> Attempt:
    return Attempt(start=start, status=RunState.FAILED, last_step=last, cause=cause, reason="exit code 1")


def run_of(*attempts: Attempt) -> RunRecord:
    return RunRecord(id="r", script_path="/x.py", start_time=0, status=attempts[-1].status, attempts=attempts)


def follows(series: Series, *attempts: Attempt) -> bool:
    return what_next(series, run_of(*attempts)).goes_on


def test_a_run_of_one_time_box_has_no_second() -> None:
    assert not follows(Series(), boxed(1, 10))


@pytest.mark.parametrize("state", [RunState.COMPLETED, RunState.STOPPED, RunState.LOST])
def test_nothing_follows_what_is_done_or_was_stopped_by_a_person(state: RunState) -> None:
    series = Series(most=None, retries=9)
    assert what_next(series, run_of(Attempt(start=0, status=state))).goes_on is False


def test_time_boxes_are_counted_from_the_first_of_the_series_and_failures_are_none() -> None:
    series = Series(most=2, retries=3, first=1)
    assert follows(series, boxed(1, 9), boxed(10, 19))
    assert follows(series, boxed(1, 9), boxed(10, 19), failed(25))
    assert not follows(series, boxed(1, 9), boxed(10, 19), failed(25), boxed(20, 29))


def test_without_time_left_nothing_follows_aloud() -> None:
    found = what_next(Series(most=None, left_s=0.5), run_of(boxed(1, 9)))
    assert (found.goes_on, "used up" in found.why) == (False, True)
    assert follows(Series(most=None, left_s=5), boxed(1, 9))
    assert not follows(Series(retries=1, left_s=0.5), failed(1))


def test_two_time_boxes_that_come_no_further_are_the_last() -> None:
    assert follows(ENDLESS, boxed(1, 100), boxed(90, 190))
    assert not follows(ENDLESS, boxed(1, 100), boxed(1, 103)), "it began afresh, and came further by chance"
    assert not follows(ENDLESS, boxed(1, 100), boxed(90, 100))
    assert not follows(Series(most=9), boxed(1, 100), boxed(1, 100))


def test_a_script_that_shows_nothing_goes_on_only_as_often_as_was_said() -> None:
    silent = boxed(None, None, saves=0)
    assert follows(ENDLESS, silent)
    assert not follows(ENDLESS, silent, silent)
    assert follows(Series(most=3), silent, silent)
    assert follows(ENDLESS, silent, boxed(None, None, saves=1)), "a checkpoint is a sign"


def test_steps_tell_whether_an_attempt_came_further_else_saves_do() -> None:
    assert has_advanced(boxed(1, 5), boxed(6, 9)) is True
    assert has_advanced(boxed(1, 5), boxed(1, 9)) is False
    assert has_advanced(boxed(None, None), boxed(1, 2)) is True
    assert has_advanced(boxed(1, 5), boxed(None, None)) is True
    assert has_advanced(boxed(1, 5), boxed(None, None, saves=0)) is None


def in_epochs(first: float, last: float, state: RunState = RunState.TIMEBOXED, start: int = 0) -> Attempt:
    cause, reason = (Cause.SCRIPT, "exit code 1") if state is RunState.FAILED else (None, None)
    return Attempt(
        start=start, status=state, first_epoch=first, last_epoch=last, saves=1, cause=cause, reason=reason
    )


def test_epochs_tell_it_where_there_are_no_steps() -> None:
    assert has_advanced(in_epochs(1, 3), in_epochs(3, 5)) is True
    assert has_advanced(in_epochs(1, 3), in_epochs(1, 3)) is False, "it began afresh"
    assert has_advanced(in_epochs(2, 2), in_epochs(2, 2)) is True, "within an epoch its saves tell"
    assert follows(Series(retries=5), in_epochs(1, 3, RunState.FAILED), in_epochs(2, 4, RunState.FAILED, 1))
    assert not follows(
        Series(retries=5), in_epochs(1, 3, RunState.FAILED), in_epochs(2, 3, RunState.FAILED, 1)
    )


def test_a_first_failure_is_retried_and_a_second_only_beyond_its_step() -> None:
    series = Series(retries=5)
    assert follows(series, failed(None))
    assert not follows(series, failed(None), failed(None, start=1))
    assert not follows(series, failed(80), failed(80, start=1))
    assert not follows(series, failed(80), failed(60, start=1))
    assert follows(series, failed(80), failed(81, start=1))
    assert follows(Series(most=None, retries=5), failed(80), boxed(70, 120), failed(100, start=1))


def test_retries_are_counted() -> None:
    assert not follows(Series(), failed(1))
    assert follows(Series(retries=2), failed(1), failed(2, start=1))
    found = what_next(Series(retries=1), run_of(failed(1), failed(2, start=1)))
    assert (found.goes_on, found.why) == (False, "no retry: all 1 were used")


@pytest.mark.parametrize("cause", Cause)
def test_causes_that_would_end_it_again_are_not_retried(cause: Cause) -> None:
    assert follows(Series(retries=1), failed(3, cause)) == (cause in RETRIED)
    assert RETRIED.isdisjoint({Cause.NAN_LOSS, Cause.DISK_FULL, Cause.UNUSABLE})


def test_what_the_governor_stopped_or_a_silence_is_retried() -> None:
    for cause in (Cause.GOVERNOR, Cause.STALLED):
        stopped = Attempt(start=0, status=RunState.STOPPED, cause=cause, reason="why", last_step=3)
        assert follows(Series(retries=1), stopped)
        assert not follows(Series(most=None), stopped)
