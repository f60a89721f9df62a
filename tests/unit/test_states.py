"""The life of a run, as the design draws it."""

from __future__ import annotations

import pytest

from backprop_core.states import FINAL, LIVE, RESUMABLE, TRANSITIONS, RunState, can_move

ENDS = {"completed", "failed", "timeboxed", "stopped", "lost"}
MOVES = {
    "queued": {"running", "lost", "stopped"},
    "running": {"paused", "queued", *ENDS},
    "paused": {"running", "queued", *ENDS},
    "completed": set[str](),
    **{end: {"running", "queued"} for end in ENDS - {"completed"}},
}


@pytest.mark.parametrize("old", RunState)
@pytest.mark.parametrize("new", RunState)
def test_a_run_moves_as_the_table_says_and_may_always_stay(old: RunState, new: RunState) -> None:
    assert can_move(old, new) == (old is new or str(new) in MOVES[str(old)])


def test_every_state_is_in_the_table_and_is_either_live_or_final() -> None:
    assert set(TRANSITIONS) == set(RunState) == LIVE | FINAL
    assert not LIVE & FINAL
    assert {str(state) for state in LIVE} == {"queued", "running", "paused"}


def test_what_ended_without_being_done_can_be_resumed() -> None:
    assert FINAL - {RunState.COMPLETED} == RESUMABLE
    assert all(can_move(state, RunState.RUNNING) == (state in RESUMABLE) for state in FINAL)


def test_every_state_can_be_reached_and_nothing_live_is_a_dead_end() -> None:
    reachable = {RunState.QUEUED}
    for _ in RunState:
        reachable |= {new for old in reachable for new in TRANSITIONS[old]}
    assert reachable == set(RunState)
    assert all(TRANSITIONS[state] for state in LIVE)
