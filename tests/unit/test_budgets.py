"""How long a run may go on."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest

from backprop_core.budgets import (
    check_left,
    is_series,
    job_minutes,
    left_s,
    time_box_minutes,
    used_s,
    wall_clock_end,
)
from backprop_core.clock import next_moment, now_ms
from backprop_core.errors import UsageError
from backprop_core.records import Attempt, PauseSpan, RunRecord
from backprop_core.settings import Settings
from backprop_core.states import RunState

# An hour of which a quarter was paused, then half an hour, then one that only waits for its turn.
ATTEMPTS = (
    Attempt(start=0, end=3_600_000, pauses=(PauseSpan(begin=0, end=900_000),)),
    Attempt(start=4_000_000, end=5_800_000),
    Attempt(start=6_000_000, status=RunState.QUEUED),
)
RECORD = RunRecord(id="r", script_path="/x.py", start_time=0, status=RunState.TIMEBOXED, attempts=ATTEMPTS)


def local_ms(*parts: int) -> int:
    return int(datetime(*parts).astimezone().timestamp() * 1000)  # type: ignore[arg-type]


def test_pauses_and_waiting_are_not_taken_off_the_budget() -> None:
    assert used_s(RECORD) == 2700 + 1800
    assert left_s(Settings(total_minutes=90), RECORD, None) == 15 * 60
    assert left_s(Settings(total_minutes=60), RECORD, None) == 0
    assert left_s(Settings(), RECORD, None) is None


def test_the_last_time_box_is_as_long_as_what_is_left() -> None:
    assert time_box_minutes(Settings(max_run_minutes=10), RECORD, None) == 10
    assert time_box_minutes(Settings(max_run_minutes=10, total_minutes=80), RECORD, None) == pytest.approx(5)
    soon = now_ms() + 120_000
    assert time_box_minutes(Settings(max_run_minutes=10, total_minutes=80), RECORD, soon) == pytest.approx(
        2, abs=0.1
    )


def test_a_budget_that_is_used_up_and_a_moment_that_is_over_are_errors() -> None:
    check_left(Settings(total_minutes=80), RECORD, now_ms() + 1000)
    with pytest.raises(UsageError, match="the 60 minutes of run r in all are used up"):
        check_left(Settings(total_minutes=60), RECORD, None)
    with pytest.raises(UsageError, match="2001-01-01 10:00 is over"):
        check_left(Settings(until="2001-01-01 10:00"), RECORD, 1)


def test_a_time_of_day_is_the_next_one_and_a_day_is_that_day() -> None:
    noon = local_ms(2026, 12, 1, 12, 0)
    assert next_moment("18:00", noon) == local_ms(2026, 12, 1, 18, 0)
    assert next_moment("9:30", noon) == local_ms(2026, 12, 2, 9, 30)
    assert next_moment("12:00", noon) == local_ms(2026, 12, 2, 12, 0)
    assert next_moment("2026-12-05 07:15", noon) == local_ms(2026, 12, 5, 7, 15)
    assert next_moment("2026-12-05T07:15Z", noon) == next_moment("2026-12-05T08:15+01:00", noon)
    assert wall_clock_end(Settings(until="18:00"), noon) == local_ms(2026, 12, 1, 18, 0)
    assert wall_clock_end(Settings(), noon) is None


@pytest.mark.parametrize("text", ["", "18", "25:00", "18:60", "18:0", "1 pm", "tomorrow", "2026-13-01 10:00"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        next_moment(text, 0)


def test_a_series_is_more_than_one_time_box() -> None:
    assert [is_series(s) for s in (Settings(), Settings(slices=1), Settings(retries=3))] == [False] * 3
    assert [is_series(s) for s in (Settings(slices=2), Settings(until_done=True))] == [True] * 2


def test_a_job_may_take_as_long_as_all_its_time_boxes_and_what_ends_them() -> None:
    box = Settings(max_run_minutes=10, stop_grace_seconds=60)
    changed = msgspec.structs.replace
    assert job_minutes(box, RECORD, None) == 10 + 1 + 1
    assert job_minutes(changed(box, slices=3), RECORD, None) == 3 * 12
    assert job_minutes(changed(box, slices=3, retries=2), RECORD, None) == 5 * 12
    assert job_minutes(changed(box, until_done=True), RECORD, None) is None
    assert job_minutes(changed(box, until_done=True, slices=2), RECORD, None) == 2 * 12
    used_minutes = used_s(RECORD) / 60
    total = changed(box, until_done=True, total_minutes=used_minutes + 30)
    assert job_minutes(total, RECORD, None) == pytest.approx(30 + 2)
    soon = now_ms() + 5 * 60_000
    assert job_minutes(total, RECORD, soon) == pytest.approx(5 + 2, abs=0.1)
    assert job_minutes(changed(total, slices=1), RECORD, None) == 12
