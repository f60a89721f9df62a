"""What is said when a run has ended, or would have begun."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable

from backprop_core.clock import now_ms
from backprop_core.errors import ExitCode
from backprop_core.forecast import goal_of, in_words, time_boxes_left
from backprop_core.interrupts import Interrupted
from backprop_core.records import RunRecord
from backprop_core.redaction import redacted
from backprop_core.session import DryRun
from backprop_core.states import LIVE, RESUMABLE, RunState
from backprop_core.terms import Result
from backprop_core.units import escape, format_duration

from .app import say
from .text import place, presentable, run_time_s, shown_environment
from .views import PlainView

_HOW = {
    RunState.COMPLETED: "completed",
    RunState.TIMEBOXED: "reached the end of its time box",
    RunState.STOPPED: "was stopped",
    RunState.FAILED: "failed",
    RunState.LOST: "was lost",
}


def see_through(begin: Callable[[], Result], view: PlainView, *, detached: bool) -> int:
    """Begin a run with a person looking on, and tell them what came of it."""
    try:
        with view:
            result = begin()
    except Interrupted as interrupted:
        say("not started: it was stopped before its script could start")
        return interrupted.exit_code
    return finish(result, detached=detached)


def finish(result: Result, *, detached: bool) -> int:
    """Say in one sentence how the run ended, and which command resumes it.

    With `detached` the run's id goes to stdout, also when the run was over before anybody looked.
    """
    record = result.record
    if detached:
        print(record.id)
    if record.status in LIVE:
        say(
            f"run {called(record)} goes on in the background; see it with `backprop logs -f {handle(record)}`"
        )
        return result.exit_code
    say(f"run {called(record)} {sentence(record)}")
    if lost := lost_in_words(result):
        say(lost)
    if record.status in RESUMABLE and record.last_checkpoint:
        say(f"go on with: backprop resume {shlex.quote(handle(record))}")
        if result.missing_line:
            say(f"but the script does not go on from a checkpoint as it is: {result.missing_line}")
    elif record.status in RESUMABLE:
        say(
            f"no checkpoint was announced or found: `backprop resume {shlex.quote(handle(record))}` would start afresh"
        )
    return result.exit_code


def lost_in_words(result: Result) -> str | None:
    """Say what the storage could not take while the script ran; None when it took everything."""
    lost = result.record.attempts[-1].lost_writes if result.record.attempts else 0
    if not result.is_recorded:
        before = f", nor {lost} writes before it" if lost else ""
        return f"its end could not be recorded{before}: `backprop list` will take the run for lost"
    return f"its end is recorded; {lost} writes of metrics and states before it are lost" if lost else None


def called(record: RunRecord) -> str:
    """Name a run by its name and its id."""
    return f"{record.name} ({record.id})" if record.name else record.id


def handle(record: RunRecord) -> str:
    """Return what to type for a run: its name where that is a plain word, else its id."""
    return (
        record.name
        if record.name and record.name.isprintable() and not record.name.startswith("-")
        else record.id
    )


def sentence(record: RunRecord) -> str:
    """Say how a run ended, after how long, and how far it came."""
    attempt = record.attempts[-1] if record.attempts else None
    began = attempt.start if attempt else record.start_time
    took = format_duration(((record.end_time or now_ms()) - began) / 1000)
    how = _HOW.get(record.status, str(record.status))
    reason = f" ({record.reason})" if record.reason and record.status is not RunState.COMPLETED else ""
    reached = list(place(record))
    reached += [f"loss {record.last_loss:.4g}"] if record.last_loss is not None else []
    count = record.checkpoint_count
    reached += [f"{count} checkpoint{'s' * (count != 1)}"] if count else []
    if len(record.attempts) > 1:
        took += f" ({format_duration(run_time_s(record))} over {len(record.attempts)} attempts)"
    at = f", at {', '.join(reached)}" if reached else ""
    left, goal = in_words(time_boxes_left(record)), goal_of(record)
    to = f"; {left} to {goal.unit} {goal.total:g}" if left and goal else ""
    return f"{how}{reason} after {took}{at}{to}"


def show_dry_run(found: DryRun) -> int:
    """Print the verdict, the command line and what the environment gains."""
    print(f"verdict: {'the run may start' if not found.reasons else 'the run would be refused'}")
    for reason in found.reasons:
        print(f"  - {presentable(reason)}")
    for warning in found.warnings:
        print(f"  warning: {presentable(warning)}")
    print(f"framework: {found.framework or 'none recognised'}")
    if found.gpus:
        print(f"gpus: {escape(', '.join(found.gpus))}")
    if found.memory_layer:
        print(f"memory limit held by: {found.memory_layer}")
    print(f"folder: {escape(str(found.cwd))}")
    print(f"command: {escape(shlex.join(redacted(found.command)))}")
    if found.launcher:
        print("launcher:")
        print(presentable(found.launcher).replace("\\n", "\n"))
    print("environment:")
    for line in shown_environment(found.environment):
        print(f"  {escape(line)}")
    sys.stdout.flush()
    return int(ExitCode.REFUSED) if found.reasons else 0
