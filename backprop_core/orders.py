"""What is to be run: a new run or the next attempt of an old one, described without running it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from . import holding, registry
from .budgets import check_left, wall_clock_end
from .clock import now_ms
from .description import describe_script, find_interpreter, versions_in
from .environment import kept
from .errors import UsageError
from .opening import Ask, Opened
from .records import RunRecord, RunRequest, Script
from .settings import to_dict
from .states import RunState
from .terms import Order
from .traces import frameworks_of, whereabouts

DRY = -1
"""In place of a lock, where nothing is to be written."""


def new_order(ask: Ask, opened: Opened, environ: Mapping[str, str], *, is_dry: bool = False) -> Order:
    """Describe a new run; claims its id, unless nothing is to be written."""
    cwd = Path.cwd()
    script = describe_script(ask.script, ask.module, cwd)
    resume_from = None
    if ask.resume_from:
        from .checkpoints.choice import checkpoint_given

        resume_from = checkpoint_given(ask.resume_from, cwd)
    run_id = registry.new_id() if ask.run_id is None else ask.run_id
    folder = holding.run_folder(opened.home, run_id)
    if ask.run_id is not None and (folder.exists() or opened.storage.get(run_id)):
        raise UsageError(
            f"there is a run {run_id} already", "choose another --run-id, or `backprop resume` it"
        )
    interpreter = find_interpreter(opened.resolved.settings.python, opened.resolved.project_root, environ)
    framework, _ = frameworks_of(opened, script)
    record = RunRecord(
        id=run_id,
        name=ask.name,
        script_path=str(script.path),
        module=script.module,
        status=RunState.QUEUED,
        start_time=now_ms(),
        script_args=ask.arguments,
        cwd=str(cwd),
        python=interpreter.path,
        framework=framework.name if framework else None,
        environment=kept(environ),
        settings=to_dict(opened.resolved.settings),
    )
    check_left(opened.resolved.settings, record, wall_clock_end(opened.resolved.settings, now_ms()))
    lock = DRY if is_dry else holding.hold(holding.make_folder(opened.home, run_id))
    return order_for(record, script, ask, opened, environ, resume_from, lock)


def order_for(
    record: RunRecord,
    script: Script,
    ask: Ask,
    opened: Opened,
    environ: Mapping[str, str],
    resume_from: Path | None,
    lock: int,
) -> Order:
    settings = opened.resolved.settings
    was_handed_over = record.status is RunState.QUEUED and record.attempts
    ends_at_ms = wall_clock_end(settings, record.attempts[-1].start if was_handed_over else now_ms())
    framework, forms = frameworks_of(opened, script)
    request = RunRequest(
        script=script,
        arguments=record.script_args,
        name=record.name,
        run_id=record.id,
        limits=opened.resolved.limits,
        python=record.python,
        cwd=Path(record.cwd) if record.cwd else Path.cwd(),
        run_dir=holding.run_folder(opened.home, record.id),
        resume_from=resume_from,
    )
    return Order(
        resolved=opened.resolved,
        request=request,
        record=record,
        lock=lock,
        home=opened.home,
        environ=environ,
        framework=framework,
        whereabouts=whereabouts(record, script, forms, opened),
        helper_needed=_needs_helper(record.python),
        force=ask.force,
        is_detached=ask.detach,
        with_local_plugins=ask.with_local_plugins,
        ends_at_ms=ends_at_ms,
        same_code=ask.same_code,
    )


def _needs_helper(python: str | None) -> bool:
    """Tell whether the script's interpreter lacks this distribution, and with it the script helper."""
    if python is None or os.path.dirname(python) == os.path.dirname(sys.executable):
        return False
    return versions_in(python, ["backprop-core"])["backprop-core"] is None
