"""What the framework of a run says its checkpoints look like."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from backprop_core.interfaces import Framework
from backprop_core.plugins import Plugins, guarded
from backprop_core.records import CheckpointForm, PluginFailure


def forms_for(framework: Framework | None, plugins: Plugins) -> tuple[CheckpointForm, ...]:
    """Return what the framework of a run says its checkpoints look like; () where it says nothing."""
    if framework is None:
        return ()
    name, has = framework.name, "checkpoint_forms"
    forms, failure = guarded(name, has, getattr, framework, has, ())
    if isinstance(forms, list | tuple) and all(isinstance(form, CheckpointForm) for form in forms):
        return tuple(forms)
    error = f"it is {type(forms).__name__}, not a list of CheckpointForm"
    plugins.note(failure or PluginFailure(plugin=name, hook=has, error=error))
    return ()


def form_of(
    path: Path, names: Collection[str] | None, forms: Sequence[CheckpointForm]
) -> CheckpointForm | None:
    """Return the first form that a file, or a folder with these names in it, has.

    :param names: What the folder holds; None for a file.
    """
    for form in forms:
        if form.is_folder is (names is None) or not has_name(path, form):
            continue
        if names is None or all(name in names for name in form.holds):
            return form
    return None


def has_name(path: Path, form: CheckpointForm) -> bool:
    """Tell whether a path ends as the form says."""
    depth = form.name.count("/") + 1
    return fnmatchcase("/".join(path.parts[-depth:]), form.name)


def step_in(path: Path, form: CheckpointForm | None) -> int | None:
    """Read the step from a checkpoint's name; None where its form has none there."""
    if form is None or form.step is None:
        return None
    found = re.search(form.step, path.name)
    return int(found[1]) if found and len(found[1]) <= 18 else None
