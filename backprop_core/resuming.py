"""What a run that has had an attempt goes on with: whether it may, with which code, and from which checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from . import holding, recovery, registry
from .budgets import check_left, wall_clock_end
from .checkpoints.choice import checkpoint_given, newest_valid
from .checkpoints.neighbours import disputed_in_words
from .checkpoints.search import SEARCH_CUT_SHORT
from .clock import now_ms
from .description import code_of, differences, find_interpreter, missing_line
from .environment import restored
from .errors import NotFoundError, UsageError
from .identity import host_name
from .opening import Ask, Opened, close, open_all
from .orders import DRY, order_for
from .records import Code, RunRecord, Script
from .settings import to_dict
from .states import LIVE, RESUMABLE
from .terms import Order
from .traces import frameworks_of, is_told, script_of, traces_of
from .view import View

LOOKS_ITSELF = "; the script looks for one by itself: move this one away, or it may be taken"


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
    code = _code_for(record, script, view, may_change=not ask.same_code)
    environ = restored(record.environment, environ, view.tell)
    record = registry.changed(record, code=code)
    if ask.resume_from:
        resume_from: Path | None = checkpoint_given(ask.resume_from, Path.cwd())
    else:
        resume_from = _checkpoint_for(record, script, opened, view)
    if resume_from:
        framework, _ = frameworks_of(opened, script)
        if line := missing_line(framework, opened.plugins, script, record.script_args):
            view.tell(f"the script does not go on from {resume_from} as it is: {line}")
    check_left(settings, record, wall_clock_end(settings, now_ms()))
    lock = DRY if is_dry else holding.hold(holding.make_folder(opened.home, record.id))
    return order_for(record, script, ask, opened, environ, resume_from, lock)


def _code_for(record: RunRecord, script: Script, view: View, *, may_change: bool) -> Code:
    """Tell what the code is now, and what of it is not as it was.

    :raises UsageError: when it has changed and must not have.
    """
    if not may_change:
        return refuse_other_code(record, script)
    now = code_of(script)
    for text in differences(record.code or Code(), now, script):
        view.tell(text)
    return now


def refuse_other_code(record: RunRecord, script: Script) -> Code:
    """Return what the code is, which is what the record says.

    :raises UsageError: when it is not.
    """
    now = code_of(script)
    if found := differences(record.code or Code(), now, script):
        raise UsageError("; ".join(found), "bring it back, or leave out --same-code")
    return now


def _checkpoint_for(record: RunRecord, script: Script, opened: Opened, view: View) -> Path | None:
    """Find the checkpoint to go on from, wherever the run has left it."""
    traces = traces_of(record, script, opened)
    if traces.is_cut:
        view.tell(SEARCH_CUT_SHORT)
    if traces.neighbour:
        view.tell(disputed_in_words(traces.neighbour))

    def advice() -> str:
        framework, _ = frameworks_of(opened, script)
        return "" if is_told(framework, script, record.script_args) else LOOKS_ITSELF

    return newest_valid(record, traces.known, opened.plugins, view.tell, traces.forms, advice)


def next_order(order: Order, record: RunRecord, opened: Opened, view: View) -> Order:
    """Describe the time box that follows another of the same run, from the newest checkpoint there is."""
    script = script_of(record)
    record = registry.changed(record, code=_code_for(record, script, view, may_change=not order.same_code))
    checkpoint = _checkpoint_for(record, script, opened, view)
    request = msgspec.structs.replace(order.request, script=script, resume_from=checkpoint)
    return msgspec.structs.replace(order, record=record, request=request, follows=True)
