"""The colours of states."""

from __future__ import annotations

from backprop_core.states import RunState

STATE_STYLE = {
    RunState.QUEUED: "cyan",
    RunState.RUNNING: "bold green",
    RunState.PAUSED: "bold yellow",
    RunState.COMPLETED: "green",
    RunState.TIMEBOXED: "blue",
    RunState.STOPPED: "yellow",
    RunState.FAILED: "bold red",
    RunState.LOST: "red",
}
