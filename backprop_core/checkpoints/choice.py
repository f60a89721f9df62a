"""Which checkpoint a run goes on from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from backprop_core.errors import NotFoundError
from backprop_core.plugins import Plugins
from backprop_core.records import CheckpointForm, CheckpointSaved, PluginFailure, RunRecord

from .ledger import Known, Ledger, in_order, merged
from .search import measure
from .validity import what_is_wrong


def checkpoint_given(path: Path, cwd: Path, forms: Sequence[CheckpointForm] = ()) -> Path:
    """Return the absolute path of a checkpoint that a person named.

    :raises NotFoundError: when it does not exist or is broken.
    """
    full = Path(os.path.abspath(cwd / path))
    if problem := what_is_wrong(full, forms):
        raise NotFoundError(f"the checkpoint {full} {problem}", "check the path after -r")
    return full


def newest_valid(
    record: RunRecord,
    known: Ledger,
    plugins: Plugins,
    tell: Callable[[str], None],
    forms: Sequence[CheckpointForm] = (),
    advice: Callable[[], str] = lambda: "",
) -> Path | None:
    """Find the newest checkpoint that can be used; those passed over are told, and so is a fresh start.

    :param known: The run's ledger, with what a look at the disk has added to it.
    :param advice: Asked for what to add where a broken one still lies there.
    """
    ordered = in_order(dict.fromkeys([*record.checkpoints, *known]), known)
    candidates = [Path(path) for path in ordered]
    named = [Path(entry.path) for entry in named_by_plugins(record, plugins)]
    candidates += [path for path in named if path not in candidates]
    for path in reversed(candidates):
        problem = what_is_wrong(path, forms)
        if problem is None:
            return path
        tell(f"passing over the checkpoint {path}: it {problem}{advice() if os.path.exists(path) else ''}")
    tell(
        "no checkpoint can be used: starting afresh"
        if candidates
        else "no checkpoint was announced or found: starting afresh"
    )
    return None


def recollected(record: RunRecord, ledger: Ledger, news: Sequence[Known]) -> dict[str, Known]:
    """Join what a record, its ledger and a look at the disk tell.

    Records of before there were ledgers hold paths alone: how those were learned is that the script said so.
    """
    known: dict[str, Known] = {}
    for path in record.checkpoints:
        entry = ledger.get(path)
        if entry is None:
            find = measure(Path(path), ())
            entry = Known(
                path=path,
                learned="announced",
                at=find.at_ms if find else None,
                size_bytes=find.size_bytes if find else None,
            )
        known[path] = entry
    known |= {path: entry for path, entry in ledger.items() if path not in known}
    return merged(known, news)


def named_by_plugins(record: RunRecord, plugins: Plugins) -> list[Known]:
    """Ask the plugins for checkpoints; the one with the last step comes last, and is newer than what is known."""
    found: list[tuple[int, Path]] = []
    for answer in plugins.ask("backprop_find_checkpoint", run=record):
        if answer.failure:
            continue
        value = answer.value
        saved = CheckpointSaved(path=str(value)) if isinstance(value, str | Path) else value
        if _is_checkpoint(saved):
            found.append((saved.step or 0, Path(saved.path)))
        else:
            error = f"it answered {type(value).__name__}, no checkpoint with a path"
            plugins.note(PluginFailure(plugin=answer.plugin, hook="backprop_find_checkpoint", error=error))
    return [
        Known(
            path=str(path),
            learned="plugin",
            step=step or None,
            size_bytes=find.size_bytes if find else None,
            at=find.at_ms if find else None,
        )
        for step, path in sorted(found)
        for find in [measure(path, ())]
    ]


def _is_checkpoint(value: object) -> bool:
    return (
        isinstance(value, CheckpointSaved)
        and isinstance(value.path, str)
        and isinstance(value.step, int | None)
    )
