"""One attempt of a run, from the first look at the machine to the final record.

This is what the agent does, in the foreground of a terminal or as a launcher's job.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from . import holding, registry
from .admission import Admission, Admitted, is_about_turn
from .answers import are_arguments, are_variables
from .budgets import is_series, time_box_minutes
from .causes import Cause, cause_of
from .causes import told as told_failure
from .checkpoints import CheckpointWatch, Whereabouts
from .clock import now_ms
from .description import answer_of, memory_layer, missing_line
from .environment import (
    Told,
    build,
    command_line,
    from_plugins,
    helper_folder,
)
from .errors import ExitCode, RefusedError
from .events import EventReader, collect_parsers
from .following import GOVERNOR, STALLED, UNTIL, Following, View, as_neighbour
from .identity import host_name
from .interfaces import Framework, GpuProbe, Storage
from .interrupts import Interrupted
from .machine import visible_devices
from .observers import Observers
from .output_log import OutputLog
from .plugins import Plugins
from .records import Gpu, GpuIdentity, ProcessExit, Record, RunRecord, RunRequest
from .recovery import end_abandoned
from .settings import RECORDED, Resolved
from .slots import Slot
from .states import RESUMABLE, RunState
from .supervisor import (
    STOP_SIGNALS,
    Ending,
    Job,
    Signals,
    Supervisor,
    WaitingKeeper,
    held_signals,
    late_stop,
)

OBSERVERS_S = 5.0
CANNOT_START = 127


class Order(Record, frozen=True):
    """Everything that one attempt needs to know.

    `record` is the run as it was before this attempt; `lock` holds its folder. `whereabouts` is where its
    checkpoints may be. `helper_needed` is set where the script's interpreter lacks this distribution.
    `ends_at_ms` is when the run ends at the latest, by the wall clock; None without such a moment. An order that
    `follows` another time box waits for its turn as long as it takes; with `same_code` none follows a change.
    """

    resolved: Resolved
    request: RunRequest
    record: RunRecord
    lock: int
    home: Path
    environ: Mapping[str, str]
    whereabouts: Whereabouts
    framework: Framework | None = None
    helper_needed: bool = False
    force: bool = False
    is_detached: bool = False
    with_local_plugins: bool = True
    ends_at_ms: int | None = None
    follows: bool = False
    same_code: bool = False


class Result(Record, frozen=True):
    """How an attempt ended, and what the command exits with; `is_recorded` is False where its end is not.

    `missing_line` is what the script lacks to go on from the checkpoints that there are.
    `goes_on` says why another time box follows; None where none does. `asked` is what a person did to end the
    run, in a word of `STOPPED_WITH`, also where that came too late to end this attempt.
    """

    record: RunRecord
    exit_code: int
    is_recorded: bool = True
    missing_line: str | None = None
    goes_on: str | None = None
    asked: str | None = None


class Outcome(Record, frozen=True):
    """What an ending means for the record and for the command."""

    state: RunState
    exit_code: int
    reason: str | None = None
    cause: Cause | None = None


GoesOn = Callable[[RunRecord], str | None]
"""Tells from an attempt's final record why another time box follows; None where none does."""


def run(
    order: Order,
    plugins: Plugins,
    storage: Storage,
    view: View,
    goes_on: GoesOn = lambda _: None,
) -> Result:
    """Admit, start, follow and end one attempt.

    :raises RefusedError: when the Governor refuses, or a wait was in vain; the record is as it was before.
    :raises StorageError: when the record cannot be saved before the start.
    """
    admitted = admit(order, plugins, storage, view)
    for warning in admitted.warnings:
        view.tell(warning)
    keeper = None
    try:
        clear_slot(admitted.slot, order.home, view)
        # What is made ready and saved until the script may start takes as long as its start does.
        keeper = WaitingKeeper((order.lock, admitted.slot.fd))
        record = begin(order, admitted, plugins)
        probe = admitted.reader.probe if admitted.reader else None
        job = prepare(order, admitted.gpus, probe, plugins)
        journal = registry.Journal(storage, record, view.tell)
        with held_signals(on_hangup=not order.is_detached) as signals:
            journal.begin(record)
            result = follow(order, admitted, plugins, view, journal, job, signals, keeper, goes_on)
            return msgspec.structs.replace(result, asked=result.asked or late_stop(signals))
    finally:
        if keeper is not None:
            keeper.let_go()
        admitted.slot.close()


# --- getting in ---------------------------------------------------------------------------------


def admission(order: Order, plugins: Plugins, view: View) -> Admission:
    """Open the door of this machine for the run."""
    return Admission(order.request, order.resolved.settings, plugins, order.home, order.environ, view.tell)


def admit(order: Order, plugins: Plugins, storage: Storage, view: View) -> Admitted:
    """Get a slot and GPUs, now or after waiting."""
    door = admission(order, plugins, view)
    try:
        return door.try_now(force=order.force)
    except RefusedError as error:
        limit_s = patience_s(order, error.reasons)
        if limit_s <= 0:
            raise
        return _wait(order, door, storage, view, limit_s, error.reasons)


def clear_slot(slot: Slot, home: Path, view: View) -> None:
    """End what the last run in this slot has left, where it was killed together with those who would have."""
    if slot.left_by is not None and (count := end_abandoned(home, slot.left_by)):
        processes = "process" if count == 1 else "processes"
        view.tell(f"ended {count} {processes} that run {slot.left_by} had left behind")


def patience_s(order: Order, reasons: Sequence[str]) -> float:
    """Return for how many seconds to wait for room: as long as it takes (infinite) between two time boxes.

    A run of several time boxes takes turns with others, so that it waits for its first turn, too, unless it was
    said how long; what else stands in the way refuses it.
    """
    settings = order.resolved.settings
    limit_s = settings.wait_minutes * 60
    is_said = limit_s > 0 or order.resolved.origins.get("waitMinutes", RECORDED) != RECORDED
    if order.follows or (is_series(settings) and not is_said and is_about_turn(reasons)):
        limit_s = math.inf
    return limit_s if order.ends_at_ms is None else min(limit_s, (order.ends_at_ms - now_ms()) / 1000)


def _wait(
    order: Order, door: Admission, storage: Storage, view: View, limit_s: float, reasons: Sequence[str]
) -> Admitted:
    """Wait in the queue with a record that says so; whatever ends the wait puts things back."""
    before = storage.get(order.record.id)
    queued = registry.changed(
        order.record, status=RunState.QUEUED, host=host_name(), reason="; ".join(reasons), end_time=None
    )

    def check() -> None:
        intent = storage.take(order.record.id)
        if intent is not None and intent.kind == "stop":
            raise Interrupted(ExitCode.STOPPED, "backprop stop")

    try:
        with interruptible():
            storage.save(queued)
            return door.wait(limit_s, view.waiting, check)
    except BaseException:
        put_back(storage, order.record.id, before)
        raise
    finally:
        view.waiting((), 0, 0)


def put_back(storage: Storage, run_id: str, before: RunRecord | None) -> None:
    """Undo `queued`: forget a new run, give a resumed one its old record back.

    :param before: The record as it was before this process changed it.
    """
    if before is not None and before.status is RunState.QUEUED:  # by who handed the run to us
        before = registry.before_queued(before)
    if before is None:
        storage.delete(run_id)
    else:
        storage.save(before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals end a wait."""

    def interrupt(number: int, _: object) -> NoReturn:
        raise Interrupted(128 + number, STOP_SIGNALS[signal.Signals(number)])

    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- starting -----------------------------------------------------------------------------------


def begin(order: Order, admitted: Admitted, plugins: Plugins) -> RunRecord:
    """Return the record as it is saved before the script starts."""
    gpus = tuple(GpuIdentity(uuid=gpu.uuid, index=gpu.index, name=gpu.name) for gpu in admitted.gpus)
    resumed_from = str(order.request.resume_from) if order.request.resume_from else None
    record = registry.new_attempt(
        order.record, resumed_from=resumed_from, host=host_name(), state=RunState.RUNNING
    )
    layer = memory_layer(order.framework, plugins, order.request, admitted.gpus)
    return registry.changed(record, gpus=gpus, gpu=gpus[0] if gpus else None, memory_layer=layer)


def told(order: Order, attempt: int) -> Told:
    """Return what this attempt tells its script."""
    every = order.request.limits.checkpoint_every_minutes
    return Told(
        run_id=order.request.run_id,
        attempt=attempt,
        run_dir=holding.run_folder(order.home, order.request.run_id),
        max_minutes=time_box_minutes(order.resolved.settings, order.record, order.ends_at_ms),
        checkpoint_every_s=every * 60 if every else None,
        resume_from=order.request.resume_from,
        framework=order.framework.name if order.framework else None,
    )


def prepare(order: Order, gpus: Sequence[Gpu], probe: GpuProbe | None, plugins: Plugins) -> Job:
    """Build the command line and the environment; nothing is started, and nothing written."""
    request, settings = order.request, order.resolved.settings
    saying = told(order, len(registry.earlier_attempts(order.record)) + 1)
    gpu = gpus[0] if gpus else None
    answers = from_plugins(plugins, request, gpu)
    resume_arguments: Sequence[str] = ()
    if order.framework:
        answers += answer_of(order.framework, plugins, "environment", are_variables, request, gpu)
    if order.framework and request.resume_from:
        found = answer_of(
            order.framework, plugins, "resume_arguments", are_arguments, request.script, request.resume_from
        )
        resume_arguments = found[0] if found else ()
    environment = build(
        order.environ,
        told=saying,
        unbuffered=settings.unbuffered,
        helper=helper_folder(order.home) if order.helper_needed else None,
        answers=answers,
        confined_to=visible_devices(probe, gpus, plugins.origin(probe)) if probe and gpus else {},
    )
    return Job(
        argv=command_line(request, saying, through=settings.through, resume_arguments=resume_arguments),
        environment=environment,
        cwd=request.cwd or Path.cwd(),
        limit_s=saying.max_minutes * 60,
        grace_s=settings.stop_grace_seconds,
        max_pause_s=settings.max_pause_minutes * 60,
        time_box_file=saying.run_dir / "time-box.json",
    )


# --- following ----------------------------------------------------------------------------------


def follow(  # what an attempt is made of
    order: Order,
    admitted: Admitted,
    plugins: Plugins,
    view: View,
    journal: registry.Journal,
    job: Job,
    signals: Signals,
    keeper: WaitingKeeper,
    goes_on: GoesOn,
) -> Result:
    """Run the script to its end and save the final record."""
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
    supervisor = Supervisor(job, following, signals, keeper)
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


STOPPED_WITH = {
    "Ctrl-C": ExitCode.INTERRUPTED,
    "SIGTERM": ExitCode.STOPPED,
    "backprop stop": ExitCode.STOPPED,
    "the terminal was closed": 128 + signal.SIGHUP,
}
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
