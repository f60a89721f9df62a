"""One attempt of a run, from the first look at the machine to the start of its script; `course` is the rest.

This is what the agent does, in the foreground of a terminal or as a launcher's job.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from . import holding, registry
from .admission import Admission, Admitted, is_about_turn
from .answers import are_arguments, are_variables
from .budgets import is_series, time_box_minutes
from .clock import now_ms
from .description import answer_of, memory_layer
from .environment import Told, build, command_line, from_plugins, helper_folder
from .errors import ExitCode, RefusedError, StorageError
from .identity import host_name
from .interfaces import GpuProbe, Storage
from .interrupts import Interrupted
from .machine import visible_devices
from .plugins import Plugins
from .records import Gpu, GpuIdentity, RunRecord
from .settings import RECORDED
from .slots import Slot
from .starting import STOP_SIGNALS, Job, Keeper, held_signals, late_stop
from .states import RunState
from .terms import GoesOn, Order, Result
from .view import View


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
    keeper = None
    try:
        with undone_where_it_fails(storage, order.record.id), interruptible():
            for warning in admitted.warnings:
                view.tell(warning)
            clear_slot(admitted.slot, order.home, view)
            # What is made ready and saved until the script may start takes as long as its start does.
            keeper = Keeper((order.lock, admitted.slot.fd))
            record = begin(order, admitted, plugins)
            probe = admitted.reader.probe if admitted.reader else None
            job = prepare(order, admitted.gpus, probe, plugins)
        journal = registry.Journal(storage, record, view.tell)
        with held_signals(on_hangup=not order.is_detached) as signals:
            with undone_where_it_fails(storage, order.record.id):
                journal.begin(record)
            keeper.start(job)
            from .course import follow  # while the script starts: nothing of it is needed before

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
    if slot.left_by is None:
        return
    from .recovery import end_abandoned

    if count := end_abandoned(home, slot.left_by):
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
def undone_where_it_fails(storage: Storage, run_id: str) -> Iterator[None]:
    """Undo `queued` where the run waited for its turn, and the block fails."""
    try:
        yield
    except BaseException:
        with suppress(StorageError):  # what went wrong first is told
            current = storage.get(run_id)
            if current is not None and current.status is RunState.QUEUED:
                put_back(storage, run_id, current)
        raise


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
