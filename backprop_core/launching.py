"""Handing a run to an agent in another process, through a launcher."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import attempt, holding, registry
from .admission import HOW_TO_GET_IN
from .budgets import job_minutes
from .chosen import guarded_launcher
from .clock import now_s
from .errors import BackpropError, ExitCode, LauncherError, RefusedError
from .interfaces import Launcher, Storage, named
from .interrupts import Interrupted
from .opening import Opened
from .records import EngineState, LaunchPlan, RunRecord
from .redaction import without_secrets
from .states import LIVE, RunState
from .terms import Order, Result

FOLLOW_S = 0.05
LAST_WORD_S = 5.0
"""How long an agent may take to end after it has recorded the end of its run."""


def choose_launcher(opened: Opened) -> Launcher:
    """Pick the launcher that the settings name."""
    launchers = opened.plugins.parts("backprop_launcher")
    launcher = named(launchers, opened.resolved.settings.launcher, "launcher", "launcher")
    return guarded_launcher(launcher, opened.plugins.origin(launcher))


def launch_plan(order: Order) -> LaunchPlan:
    """Describe the agent that a launcher is to start.

    Its Python is kept from importing what lies in the working directory, where scripts have such names as
    `queue.py`.
    """
    first = () if order.with_local_plugins else ("--no-local-plugins",)
    storage = order.resolved.settings.storage
    # Any user of the machine may read a command line, and none an environment.
    is_secret = without_secrets(storage) != storage
    environment = {**order.environ, "BACKPROP_STORAGE": storage} if is_secret else order.environ
    options = [
        *(() if is_secret else ("--storage", storage)),
        *(("--force",) if order.force else ()),
        *(("--same-code",) if order.same_code else ()),
    ]
    return LaunchPlan(
        run_id=order.record.id,
        attempt=len(registry.earlier_attempts(order.record)) + 1,
        command=(sys.executable, "-P", "-m", "backprop_core", *first, "agent", order.record.id, *options),
        environment=environment,
        cwd=order.request.cwd or Path.cwd(),
        run_dir=holding.run_folder(order.home, order.record.id),
        limits=order.request.limits,
        job_minutes=job_minutes(order.resolved.settings, order.record, order.ends_at_ms),
    )


def launch(order: Order, opened: Opened, launcher: Launcher, tell: Callable[[str], None]) -> Result:
    """Save the run as queued, have its agent started, and follow the record."""
    plan = launch_plan(order)
    if problems := launcher.preflight(plan):
        raise LauncherError(f"{launcher.name}: {'; '.join(problems)}")
    old = opened.storage.get(order.record.id)
    resumed_from = str(order.request.resume_from) if order.request.resume_from else None
    queued = registry.new_attempt(order.record, resumed_from=resumed_from, host=None, state=RunState.QUEUED)
    opened.storage.save(queued)
    holding.release(order.lock)
    try:
        handle = launcher.submit(plan)
        engine = _Engine(launcher, handle, tell)
        return _follow(queued, opened.storage, engine, until_admitted=order.is_detached)
    except (BackpropError, Interrupted):
        current = opened.storage.get(order.record.id)
        # Once the agent has begun the run, the record is the agent's.
        if current is None or not _is_awaited(current, queued, until_admitted=True):
            attempt.put_back(opened.storage, order.record.id, old)
        raise


class _Engine:
    """The launcher's job of one attempt; that it cannot be asked for a while is said once."""

    def __init__(self, launcher: Launcher, handle: str, tell: Callable[[str], None]) -> None:
        self._launcher = launcher
        self._handle = handle
        self._tell = tell
        self._has_told = False

    def state(self) -> EngineState:
        try:
            return self._launcher.state([self._handle]).get(self._handle, EngineState(phase="unknown"))
        except LauncherError as error:
            if not self._has_told:
                self._has_told = True
                self._tell(f"{error.message}; asking again, the run is not touched")
            return EngineState(phase="unknown")

    def cancel(self, *, force: bool) -> None:
        self._launcher.cancel(self._handle, force=force)


def _follow(queued: RunRecord, storage: Storage, engine: _Engine, *, until_admitted: bool) -> Result:
    """Watch the record until the run was admitted, or has ended; Ctrl-C asks the agent to stop.

    :raises RefusedError: and whatever else kept the agent from beginning.
    """
    interrupts = 0
    while True:
        try:
            state = engine.state()
            # After the engine, so that a job that is gone has written its last word.
            record = storage.get(queued.id)
            if record is not None and _is_awaited(record, queued, until_admitted=until_admitted):
                code = 0 if until_admitted else _exit_code(record, engine)
                if interrupts and record.status is RunState.STOPPED:
                    code = ExitCode.INTERRUPTED
                return Result(record=record, exit_code=code)
            if state.phase == "gone" or (record is None and state.phase != "running"):
                break
            time.sleep(FOLLOW_S)
        except KeyboardInterrupt:
            interrupts += 1
            engine.cancel(force=interrupts > 1)
    if interrupts or state.exit_code in (ExitCode.INTERRUPTED, ExitCode.STOPPED):
        stop = (ExitCode.INTERRUPTED, "Ctrl-C") if interrupts else (ExitCode.STOPPED, "backprop stop")
        raise Interrupted(*stop)
    raise _in_its_words(state)


def _exit_code(record: RunRecord, engine: _Engine) -> int:
    """Return what the agent exits with, which is soon; where its engine does not tell, what the record says."""
    until_s = now_s() + LAST_WORD_S
    while (state := engine.state()).phase == "running" and now_s() < until_s:
        time.sleep(FOLLOW_S)
    if state.exit_code is not None:
        return state.exit_code
    is_fine = record.status in (RunState.TIMEBOXED, RunState.COMPLETED)
    return 0 if is_fine else record.exit_code or ExitCode.ERROR


def _is_awaited(record: RunRecord, queued: RunRecord, *, until_admitted: bool) -> bool:
    """Tell whether the attempt that was queued was admitted, or has ended.

    A record with fewer attempts is that of a resumed run whose agent was refused and put things back.
    """
    waits_for = frozenset({RunState.QUEUED}) if until_admitted else LIVE
    return len(record.attempts) >= len(queued.attempts) and record.status not in waits_for


def _in_its_words(state: EngineState) -> BackpropError:
    """Turn the last words of an agent that did not begin the run into an error of ours."""
    lines = [line.removeprefix("backprop: ").strip() for line in (state.detail or "").splitlines()]
    lines = [line for line in lines if line]
    if state.exit_code == ExitCode.REFUSED:
        return RefusedError(lines or ["the run was refused"], HOW_TO_GET_IN)
    return LauncherError(
        f"the run's agent ended before it began: {'; '.join(lines) or f'exit code {state.exit_code}'}"
    )
