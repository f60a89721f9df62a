"""The story of a run, from the request to the result, readable from top to bottom.

`run` resolves the settings, loads the plugins, describes the script without running it, and hands the run to
its agent: this very process in the foreground, another one with `--detach` or another launcher.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from . import attempt, holding, registry, series
from .description import memory_layer
from .errors import RefusedError, StorageError, UsageError
from .opening import Ask, Opened, close, open_all
from .orders import DRY, new_order, order_for
from .records import Record, RunRecord, Script
from .terms import Order, Result
from .traces import script_of
from .view import View


class DryRun(Record, frozen=True):
    """Everything up to the launch: the verdict, the command line, and what the environment would gain."""

    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path
    framework: str | None
    gpus: tuple[str, ...] = ()
    memory_layer: str | None = None
    launcher: str | None = None


def run(ask: Ask, view: View, environ: Mapping[str, str]) -> Result:
    """Start a new run and follow it to its end.

    :raises BackpropError: with the exit code that fits; then nothing was recorded.
    """
    with _closing(open_all(ask, environ, script=ask.script), view) as opened:
        order = new_order(ask, opened, environ)
        return hand_over(order, opened, view)


def resume(reference: str, ask: Ask, view: View, environ: Mapping[str, str]) -> Result:
    """Add an attempt to a run that has ended, from its last valid checkpoint.

    :raises BackpropError: with the exit code that fits; then the record is as it was.
    """
    from .resuming import recall, resume_order

    record = recall(reference, ask, environ)
    again = open_all(ask, environ, script=Path(record.script_path), recorded=record.settings)
    with _closing(again, view) as opened:
        order = resume_order(record, ask, opened, environ, view)
        return hand_over(order, opened, view)


def agent(run_id: str, ask: Ask, view: View, environ: Mapping[str, str]) -> Result:
    """Take up a run that was handed over, in this process."""
    asked = open_all(ask, environ)
    record = registry.find(asked.storage, run_id)
    close(asked)
    again = open_all(ask, environ, script=Path(record.script_path), recorded=record.settings)
    with _closing(again, view) as opened:
        resumed_from = record.attempts[-1].resumed_from if record.attempts else None
        lock = holding.hold(holding.make_folder(opened.home, record.id))
        checkpoint = Path(resumed_from) if resumed_from else None
        script = script_of(record)
        order = order_for(record, script, ask, opened, environ, checkpoint, lock)
        if ask.same_code:
            _refuse_other_code(record, script, opened)
        try:
            return _run(order, opened, view)
        except RefusedError:
            attempt.put_back(opened.storage, record.id, record)
            raise


def _refuse_other_code(record: RunRecord, script: Script, opened: Opened) -> None:
    """See that the code is what it was when the run was handed over, which may be long ago.

    :raises UsageError: when it is not; then the record is as it was.
    """
    from .resuming import refuse_other_code

    try:
        refuse_other_code(record, script)
    except UsageError:
        attempt.put_back(opened.storage, record.id, record)
        raise


def dry_run(ask: Ask, view: View, environ: Mapping[str, str], *, reference: str | None = None) -> DryRun:
    """Go as far as the launch, and tell what would be launched; nothing is recorded."""
    if reference is None:
        opened = open_all(ask, environ, script=ask.script)
        order = new_order(ask, opened, environ, is_dry=True)
    else:
        from .resuming import recall, resume_order

        record = recall(reference, ask, environ)
        opened = open_all(ask, environ, script=Path(record.script_path), recorded=record.settings)
        order = resume_order(record, ask, opened, environ, view, is_dry=True)
    try:
        return rehearse(order, opened, view)
    finally:
        close(opened)


@contextmanager
def _closing(opened: Opened, view: View) -> Iterator[Opened]:
    """Let go of everything at the end; a storage that fails then changes nothing of how the run ended."""
    try:
        yield opened
    finally:
        try:
            close(opened)
        except StorageError as error:
            view.tell(error.message)


def hand_over(order: Order, opened: Opened, view: View) -> Result:
    """Run it in this process, time box by time box, or have a launcher start an agent that does."""
    assert order.lock != DRY
    try:
        for warning in opened.plugins.warnings:
            view.tell(warning)
        if not order.is_detached and opened.resolved.settings.launcher == "local":
            return _run(order, opened, view)
        from .launching import choose_launcher, launch

        return launch(order, opened, choose_launcher(opened), view.tell)
    except BaseException:
        with suppress(StorageError):  # what went wrong is told, whatever the storage can say of it now
            if opened.storage.get(order.record.id) is None:
                holding.forget_folder(holding.run_folder(order.home, order.record.id))
        raise
    finally:
        with suppress(OSError):  # a plugin may have closed it
            os.close(order.lock)


def _run(order: Order, opened: Opened, view: View) -> Result:
    """Run it in this process, and let go of it: nobody whom a plugin has forked keeps it from being resumed."""
    result = series.run(order, opened, view)
    with suppress(OSError):  # a plugin may have closed it
        holding.release(order.lock)
    return result


def rehearse(order: Order, opened: Opened, view: View) -> DryRun:
    """Measure, judge and prepare, and start nothing."""
    door = attempt.admission(order, opened.plugins, view)
    weighed = door.look()
    gpus = door.choose(weighed)
    job = attempt.prepare(order, gpus, door.probe, opened.plugins)
    rendered = None
    if opened.resolved.settings.launcher != "local":
        from .launching import choose_launcher, launch_plan

        rendered = choose_launcher(opened).render(launch_plan(order))
    return DryRun(
        reasons=weighed.verdict.reasons,
        warnings=weighed.verdict.warnings,
        command=job.argv,
        environment={name: text for name, text in job.environment.items() if order.environ.get(name) != text},
        cwd=job.cwd,
        framework=order.framework.name if order.framework else None,
        gpus=tuple(f"{gpu.index} ({gpu.name or gpu.id})" for gpu in gpus),
        memory_layer=memory_layer(order.framework, opened.plugins, order.request, gpus),
        launcher=rendered,
    )
