"""The states of a run and the moves between them that are allowed."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where a run is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEBOXED = "timeboxed"
    STOPPED = "stopped"
    LOST = "lost"


LIVE = frozenset({RunState.QUEUED, RunState.RUNNING, RunState.PAUSED})
FINAL = frozenset(RunState) - LIVE
RESUMABLE = frozenset({RunState.TIMEBOXED, RunState.STOPPED, RunState.FAILED, RunState.LOST})

TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.LOST, RunState.STOPPED}),
    # Queued again: between two time boxes.
    RunState.RUNNING: frozenset({RunState.PAUSED, RunState.QUEUED}) | FINAL,
    RunState.PAUSED: frozenset({RunState.RUNNING, RunState.QUEUED}) | FINAL,
    RunState.COMPLETED: frozenset(),
    **dict.fromkeys(RESUMABLE, frozenset({RunState.RUNNING, RunState.QUEUED})),
}


def can_move(old: RunState, new: RunState) -> bool:
    """Tell whether the table allows a run in `old` to become `new`; staying is always allowed."""
    return old == new or new in TRANSITIONS[old]
