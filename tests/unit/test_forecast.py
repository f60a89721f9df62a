"""How many more time boxes a run takes."""

from __future__ import annotations

from typing import Any

import pytest

from backprop_core.forecast import in_words, time_boxes_left
from backprop_core.records import Attempt, PauseSpan, RunRecord
from backprop_core.states import RunState

MINUTE = 60_000
# Ten minutes, of which it was paused for five, for 500 steps: 100 steps a minute, 200 in a time box of two minutes.
ONE = Attempt(
    start=0,
    end=10 * MINUTE,
    status=RunState.TIMEBOXED,
    first_step=0,
    last_step=500,
    pauses=(PauseSpan(begin=MINUTE, end=6 * MINUTE),),
)


def run_of(*attempts: Attempt, total: float | None = 1100, **fields: Any) -> RunRecord:
    status = attempts[-1].status if attempts else RunState.QUEUED
    return RunRecord(
        **{
            "id": "r",
            "script_path": "/x.py",
            "start_time": 0,
            "status": status,
            "attempts": attempts,
            "last_step": attempts[-1].last_step if attempts else None,
            "metrics": {} if total is None else {"totalSteps": total},
            "settings": {"maxRunMinutes": 2},
            **fields,
        }
    )


@pytest.mark.parametrize(("total", "count"), [(1100, 3), (1101, 4), (501, 1), (700, 1), (500, 0), (100, 0)])
def test_what_is_left_is_counted_in_time_boxes_at_the_speed_without_pauses(total: float, count: int) -> None:
    assert time_boxes_left(run_of(ONE, total=total), now=0) == count


def test_unknown_is_unknown() -> None:
    assert time_boxes_left(run_of(ONE, total=None)) is None
    assert time_boxes_left(run_of(ONE, settings={})) is None
    assert time_boxes_left(run_of()) is None
    no_speed = Attempt(start=0, end=MINUTE, status=RunState.TIMEBOXED, first_step=500, last_step=501)
    assert time_boxes_left(run_of(no_speed)) is None
    silent = Attempt(start=20 * MINUTE, end=21 * MINUTE, status=RunState.FAILED)
    assert time_boxes_left(run_of(ONE, silent, last_step=500)) == 3, "the last that tells a speed counts"
    assert time_boxes_left(run_of(silent, last_step=500)) is None


def test_nothing_is_left_of_a_completed_run() -> None:
    assert time_boxes_left(run_of(ONE, status=RunState.COMPLETED)) == 0


def test_the_time_box_that_is_going_on_is_not_counted() -> None:
    going = Attempt(start=20 * MINUTE, first_step=500, last_step=600)
    record = run_of(ONE, going)
    assert time_boxes_left(record, now=21 * MINUTE) == 2, "500 steps are 5 minutes, of which it has one"
    assert time_boxes_left(record, now=21 * MINUTE, left_s=300) == 0, "it was extended"
    queued = run_of(ONE, status=RunState.QUEUED)
    assert time_boxes_left(queued, now=99 * MINUTE) == 3


# Ten minutes for five epochs: one in two minutes.
EPOCHS = Attempt(start=0, end=10 * MINUTE, status=RunState.TIMEBOXED, first_epoch=1, last_epoch=6)


def run_in_epochs(*attempts: Attempt, total: float = 11, **fields: Any) -> RunRecord:
    told = {"epoch": attempts[-1].last_epoch or 0, "total_epochs": total}
    return run_of(*attempts, **{"metrics": told, "settings": {"maxRunMinutes": 4}, **fields})


def test_epochs_tell_it_where_the_steps_or_their_total_are_not_known() -> None:
    assert time_boxes_left(run_in_epochs(EPOCHS), now=0) == 3, "5 epochs are 10 minutes"
    assert time_boxes_left(run_in_epochs(EPOCHS, last_step=70), now=0) == 3, "steps of no known total"
    going = Attempt(start=20 * MINUTE, first_epoch=6, last_epoch=7)
    assert time_boxes_left(run_in_epochs(EPOCHS, going), now=22 * MINUTE) == 2, "8 minutes, of which it has 2"
    one = Attempt(start=0, end=MINUTE, status=RunState.TIMEBOXED, first_epoch=1, last_epoch=1.5)
    assert time_boxes_left(run_in_epochs(one), now=0) is None
    assert time_boxes_left(run_of(EPOCHS, metrics={"epoch": 6})) is None


def test_steps_are_gone_by_where_they_tell_it_too() -> None:
    told = {"totalSteps": 1100, "epoch": 1, "total_epochs": 100}
    assert time_boxes_left(run_of(ONE, metrics=told), now=0) == 3


def test_the_last_epoch_is_to_be_ended_still() -> None:
    assert time_boxes_left(run_in_epochs(EPOCHS, total=6), now=0) == 1
    assert time_boxes_left(run_in_epochs(EPOCHS, total=6, status=RunState.COMPLETED), now=0) == 0
    going = Attempt(start=20 * MINUTE, first_epoch=5, last_epoch=6)
    assert time_boxes_left(run_in_epochs(EPOCHS, going, total=6), now=21 * MINUTE) == 0


def test_words() -> None:
    assert [in_words(count) for count in (None, 0, 1, 2)] == [
        "", "", "about 1 more time box", "about 2 more time boxes",
    ]  # fmt: skip
