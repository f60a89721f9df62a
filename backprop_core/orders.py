"""What is to be run: a new run or the next attempt of an old one, described without running it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import holding, recovery, registry
from .attempt import Order
from .checkpoints import (
    SEARCH_CUT_SHORT,
    Whereabouts,
    checkpoint_given,
    forms_for,
    ledger,
    look,
    newest_valid,
    places_of,
    recollected,
)
from .clock import now_ms
from .description import choose_framework, describe_script, find_interpreter, versions_in
from .errors import NotFoundError, UsageError
from .following import View
from .identity import host_name
from .interfaces import Framework
from .opening import Ask, Opened, close, open_all
from .records import CheckpointForm, RunRecord, RunRequest, Script
from .settings import to_dict
from .states import LIVE, RESUMABLE, RunState

_FRAMEWORK_NEEDS = ("name", "order", "score", "environment", "resume_arguments")
DRY = -1
"""In place of a lock, where nothing is to be written."""


def new_order(ask: Ask, opened: Opened, environ: Mapping[str, str], *, is_dry: bool = False) -> Order:
    """Describe a new run; claims its id, unless nothing is to be written."""
    cwd = Path.cwd()
    script = describe_script(ask.script, ask.module, cwd)
    resume_from = checkpoint_given(ask.resume_from, cwd) if ask.resume_from else None
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
        settings=to_dict(opened.resolved.settings),
    )
    lock = DRY if is_dry else holding.hold(holding.make_folder(opened.home, run_id))
    return order_for(record, script, ask, opened, environ, resume_from, lock)


def recall(reference: str, ask: Ask, environ: Mapping[str, str]) -> RunRecord:
    """Find the run to be resumed, and see whether it may be.

    :raises UsageError: for a run that is live, or completed.
    """
    opened = open_all(Ask(flags=_storage_only(ask), config=ask.config), environ)
    try:
        recovery.mark_lost(opened.storage, opened.home, host_name())
        record = registry.find(opened.storage, reference)
        if record.status in LIVE:
            is_unknown = recovery.grasp(record, opened.home, host_name()) is recovery.Grasp.UNKNOWN
            held_by = recovery.describe(record, opened.home, host_name())
            hint = f"it is held by {held_by}" if is_unknown else f"stop it first: backprop stop {record.id}"
            raise UsageError(f"run {record.id} is {record.status}", hint)
    finally:
        close(opened)
    if record.status not in RESUMABLE:
        raise UsageError(f"run {record.id} is {record.status}: there is nothing to resume", "start a new run")
    if record.cwd and not Path(record.cwd).is_dir():
        raise NotFoundError(f"the working directory of run {record.id} is gone: {record.cwd}")
    return record


def _storage_only(ask: Ask) -> dict[str, Any]:
    return {key: value for key, value in ask.flags.items() if key == "storage"}


def resume_order(
    record: RunRecord,
    ask: Ask,
    opened: Opened,
    environ: Mapping[str, str],
    view: View,
    *,
    is_dry: bool = False,
) -> Order:
    """Describe the next attempt of a run: recorded arguments, folder and interpreter, unless flags say else."""
    settings = opened.resolved.settings
    chosen = opened.resolved.origins.get("python", "").startswith(("the flag", "--set"))
    root = opened.resolved.project_root
    record = registry.changed(
        record,
        script_args=ask.arguments or record.script_args,
        python=find_interpreter(settings.python if chosen else record.python, root, environ).path,
        settings=to_dict(settings),
    )
    script = script_of(record)
    if ask.resume_from:
        resume_from: Path | None = checkpoint_given(ask.resume_from, Path.cwd())
    else:
        resume_from = _checkpoint_for(record, script, opened, view)
    lock = DRY if is_dry else holding.hold(holding.make_folder(opened.home, record.id))
    return order_for(record, script, ask, opened, environ, resume_from, lock)


def _checkpoint_for(record: RunRecord, script: Script, opened: Opened, view: View) -> Path | None:
    """Find the checkpoint to go on from, wherever the run has left it."""
    _, forms = frameworks_of(opened, script)
    where = whereabouts(record, script, forms, opened)
    remembered = ledger.read(where.folder)
    looked = look(where, remembered)
    if looked.is_cut:
        view.tell(SEARCH_CUT_SHORT)
    return newest_valid(
        record, recollected(record, remembered, looked.news), opened.plugins, view.tell, forms
    )


def whereabouts(
    record: RunRecord, script: Script, forms: Sequence[CheckpointForm], opened: Opened
) -> Whereabouts:
    """Say where a run's checkpoints may be."""
    cwd = Path(record.cwd) if record.cwd else Path.cwd()
    folder = holding.run_folder(opened.home, record.id)
    return Whereabouts(
        cwd=cwd,
        folder=folder,
        since_ms=record.start_time,
        places=places_of(script, record.script_args, cwd, folder),
        forms=tuple(forms),
        pattern=record.settings.get("checkpointGlob"),
    )


def script_of(record: RunRecord) -> Script:
    """Describe a recorded run's script as it is now."""
    path = None if record.module else Path(record.script_path)
    return describe_script(path, record.module, Path(record.cwd) if record.cwd else Path.cwd())


def order_for(
    record: RunRecord,
    script: Script,
    ask: Ask,
    opened: Opened,
    environ: Mapping[str, str],
    resume_from: Path | None,
    lock: int,
) -> Order:
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
    )


def frameworks_of(opened: Opened, script: Script) -> tuple[Framework | None, tuple[CheckpointForm, ...]]:
    """Choose the script's framework, and tell what its checkpoints look like."""
    frameworks = opened.plugins.parts("backprop_framework", _FRAMEWORK_NEEDS)
    chosen, _ = choose_framework(frameworks, script, opened.resolved.settings.framework)
    return chosen, forms_for(chosen, opened.plugins)


def _needs_helper(python: str | None) -> bool:
    """Tell whether the script's interpreter lacks this distribution, and with it the script helper."""
    if python is None or os.path.dirname(python) == os.path.dirname(sys.executable):
        return False
    return versions_in(python, ["backprop-core"])["backprop-core"] is None
