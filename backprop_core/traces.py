"""What a run has left on disk: where its checkpoints may be, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import holding, registry
from .checkpoints import ledger
from .checkpoints.forms import forms_for
from .checkpoints.neighbours import Neighbour, as_neighbour
from .checkpoints.places import Whereabouts
from .description import choose_framework, describe_script
from .interfaces import Framework
from .opening import Opened
from .plugins import guarded
from .records import CheckpointForm, Record, RunRecord, Script
from .states import LIVE


class Traces(Record, frozen=True):
    """The checkpoints of a run by their paths, and the forms they may have.

    `is_cut` when a search was cut short; `neighbour` is a run whose some of what was found may be, and that is left
    out of it.
    """

    known: ledger.Ledger
    forms: tuple[CheckpointForm, ...] = ()
    is_cut: bool = False
    neighbour: Neighbour | None = None


def traces_of(record: RunRecord, script: Script, opened: Opened) -> Traces:
    """Tell what is known of a run's checkpoints; of one that is not live, with a look at the disk."""
    from .checkpoints.choice import recollected
    from .checkpoints.watching import look, undisputed

    _, forms = frameworks_of(opened, script)
    where = whereabouts(record, script, forms, opened)
    remembered = ledger.read(where.folder)
    if record.status in LIVE:
        return Traces(known=recollected(record, remembered, ()), forms=forms)
    looked = look(where, remembered)
    news, neighbour = looked.news, as_neighbour(registry.neighbour(opened.storage, record), record)
    if neighbour:
        news = undisputed(news, where, recollected(record, remembered, ()), neighbour)
    return Traces(
        known=recollected(record, remembered, news),
        forms=forms,
        is_cut=looked.is_cut,
        neighbour=neighbour if len(news) < len(looked.news) else None,
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
        script=script,
        arguments=record.script_args,
        forms=tuple(forms),
        pattern=record.settings.get("checkpointGlob"),
    )


def script_of(record: RunRecord) -> Script:
    """Describe a recorded run's script as it is now.

    :raises NotFoundError: when it is gone.
    """
    path = None if record.module else Path(record.script_path)
    return describe_script(path, record.module, Path(record.cwd) if record.cwd else Path.cwd())


def is_told(framework: Framework | None, script: Script, arguments: Sequence[str]) -> bool:
    """Tell whether the script takes the checkpoint that it is told of; one that does not looks for its own."""
    if "--resume-from" in script.options or any("{resume_from}" in argument for argument in arguments):
        return True
    if framework is not None:
        passed, failure = guarded(
            framework.name, "resume_arguments", framework.resume_arguments, script, script.path
        )
        if passed and not failure:
            return True
    from .description.source import read_source

    source = read_source(script)
    return "BACKPROP_RESUME_FROM" in source.texts or "resume_path" in source.names


def frameworks_of(opened: Opened, script: Script) -> tuple[Framework | None, tuple[CheckpointForm, ...]]:
    """Choose the script's framework, and tell what its checkpoints look like."""
    frameworks = opened.plugins.parts("backprop_framework")
    chosen, _ = choose_framework(frameworks, script, opened.resolved.settings.framework, opened.plugins.note)
    return chosen, forms_for(chosen, opened.plugins)
