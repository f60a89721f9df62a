"""The course of one attempt, from the start of its script to the final record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from . import registry
from .admission import Admitted
from .causes import Cause, cause_of
from .causes import told as told_failure
from .checkpoints.neighbours import as_neighbour
from .checkpoints.watching import CheckpointWatch
from .description import missing_line
from .errors import ExitCode
from .events import EventReader, collect_parsers
from .following import GOVERNOR, STALLED, UNTIL, Following
from .observers import Observers
from .output_log import OutputLog
from .plugins import Plugins
from .records import ProcessExit, Record
from .starting import Job, Keeper, Signals
from .states import RESUMABLE, RunState
from .supervisor import Ending, Supervisor
from .terms import STOPPED_WITH, GoesOn, Order, Result
from .view import View

OBSERVERS_S = 5.0
CANNOT_START = 127


class Outcome(Record, frozen=True):
    """What an ending means for the record and for the command."""

    state: RunState
    exit_code: int
    reason: str | None = None
    cause: Cause | None = None


def follow(  # what an attempt is made of
    order: Order,
    admitted: Admitted,
    plugins: Plugins,
    view: View,
    journal: registry.Journal,
    job: Job,
    signals: Signals,
    keeper: Keeper,
    goes_on: GoesOn,
) -> Result:
    """Follow a script that is starting to its end, and save the final record."""
    run_dir = job.time_box_file.parent
    log = OutputLog(run_dir / "output.log", int(order.resolved.settings.max_log_mb * 1e6))
    observers = Observers(plugins)
    following = Following(
        journal=journal,
        plugins=plugins,
        observers=observers,
        events=EventReader(collect_parsers(plugins, journal.record), job.cwd),
        log=log,
        checkpoints=CheckpointWatch(
            order.whereabouts, lambda: as_neighbour(journal.neighbour(), journal.record)
        ),
        view=view,
        admitted=admitted,
        monitor_s=order.resolved.settings.monitor_seconds,
        lock=order.lock,
        home=order.home,
        script=order.request.script,
        stall_s=stall * 60 if (stall := order.resolved.settings.stall_minutes) else None,
        ends_at_ms=order.ends_at_ms,
    )
    if limit := order.request.limits.gpu_memory_limit:
        view.tell(f"GPU memory limit {limit}: {journal.record.memory_layer or 'no GPU to hold it on'}")
    supervisor = Supervisor(following, signals, keeper)
    following.wake = supervisor.wake
    ending = supervisor.run()
    following.end()
    stopped_itself = said_stopping(run_dir, len(journal.record.attempts))
    outcome = judge_ending(ending, following.stop_reasons, following.tail, stopped_itself=stopped_itself)
    asked = ending.asked if ending.asked in STOPPED_WITH else None
    why = journal.end(
        outcome.state,
        ending.exit,
        outcome.reason,
        cause=outcome.cause,
        goes_on=lambda record: None if asked else goes_on(record),
    )
    admitted.slot.give_back()
    observers.tell("backprop_run_finished", run=journal.record)
    log.close()
    for busy in observers.drain(OBSERVERS_S):
        view.tell(f"{busy} did not finish within {OBSERVERS_S:g} s and is left behind")
    for loss in observers.losses():
        view.tell(loss)
    request, record = order.request, journal.record
    line = None
    if record.status in RESUMABLE and record.checkpoints:
        line = missing_line(order.framework, plugins, request.script, request.arguments)
    following.say_failures()
    return Result(
        record=record,
        exit_code=outcome.exit_code,
        is_recorded=not journal.is_end_lost,
        missing_line=line,
        goes_on=why,
        asked=asked,
    )


_OF_OUR_OWN = {GOVERNOR: Cause.GOVERNOR, "pause limit": Cause.GOVERNOR, STALLED: Cause.STALLED}
PAUSED_TOO_LONG = "paused for longer than maxPauseMinutes"


def said_stopping(run_dir: Path, attempt: int) -> bool:
    """Tell whether the script was told by `should_stop()` in this attempt that its time box was ending."""
    try:
        return (run_dir / "stopping").read_text("ascii", "replace") == str(attempt)
    except OSError:
        return False


def judge_ending(
    ending: Ending, reasons: Mapping[str, str], tail: bytes = b"", *, stopped_itself: bool = False
) -> Outcome:
    """Tell what an ending means: what we initiated, else what the process did.

    :param reasons: Why we stopped the run of our own accord, by the word given to the supervisor.
    :param tail: The end of what the script printed.
    :param stopped_itself: The script had been told that its time box was ending.
    """
    ended_in_time = ending.why is None and stopped_itself and ending.exit == ProcessExit(code=0)
    if ending.why in ("time box", UNTIL) or ended_in_time:
        return Outcome(state=RunState.TIMEBOXED, exit_code=ExitCode.OK, reason=reasons.get(ending.why or ""))
    if ending.why is not None:
        reason = {**reasons, "pause limit": PAUSED_TOO_LONG}.get(ending.why, ending.why)
        code = STOPPED_WITH.get(ending.why, ExitCode.REFUSED)
        cause = _OF_OUR_OWN.get(ending.why)
        return Outcome(state=RunState.STOPPED, exit_code=code, reason=reason, cause=cause)
    if ending.exit == ProcessExit(code=0):
        return Outcome(state=RunState.COMPLETED, exit_code=ExitCode.OK)
    cause = Cause.KILLED if ending.exit and ending.message else cause_of(ending.exit, tail)
    return Outcome(
        state=RunState.FAILED,
        exit_code=ending.exit.status if ending.exit else CANNOT_START,
        reason=ending.message or told_failure(ending.exit, cause),
        cause=cause,
    )
