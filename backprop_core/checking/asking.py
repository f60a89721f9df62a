"""Finding the plugins that a person means, and having each examined in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from backprop_core.errors import UsageError
from backprop_core.plugin_sources import GROUP, find_entry_points, read_target
from backprop_core.plugins import OWN_DISTRIBUTION

from .child import MOST_IMPORT_S
from .findings import Problem, Report, Target

LIMIT_S = 30.0
_TRIES = 3


def targets(named: str, cwd: Path) -> list[Target]:
    """Find what a path, a plugin's name or a module's name means: a folder may hold several plugins.

    :raises UsageError: when it means nothing.
    """
    path = cwd / named
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return [Target(name=str(path), file=str(path), search=(str(path.parent),))]
    points = find_entry_points()
    for point in points:
        if point.name == named:
            return [Target(name=named, module=point.target, hooks=point.hooks)]
    if _is_module(named, cwd):
        return [Target(name=named, module=named, search=(str(cwd),))]
    import difflib

    close = difflib.get_close_matches(named, [point.name for point in points], 1)
    raise UsageError(
        f"{named} is no file, no installed plugin and no module",
        f'did you mean "{close[0]}"?' if close else "`backprop plugins` lists what is installed",
    )


def _is_module(named: str, cwd: Path) -> bool:
    parts = named.split(".")
    if not all(part.isidentifier() for part in parts):
        return False
    from importlib.machinery import PathFinder

    return PathFinder.find_spec(parts[0], [str(cwd), *sys.path]) is not None


def _in_folder(folder: Path) -> list[Target]:
    """Read which plugins a distribution's folder declares."""
    import tomllib

    try:
        project: Mapping[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8")).get(
            "project", {}
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder} is no distribution: {error}", "name a folder with a pyproject.toml"
        ) from error
    points: Mapping[str, str] = project.get("entry-points", {}).get(GROUP, {})
    if not points:
        raise UsageError(
            f"{folder / 'pyproject.toml'} declares no plugin",
            f'add [project.entry-points.{GROUP}] with NAME = "MODULE"',
        )
    own = project.get("name")
    others = [point for point in find_entry_points() if own not in (OWN_DISTRIBUTION, point.distribution)]
    return [
        Target(
            name=name,
            module=module,
            hooks=hooks,
            search=tuple(str(place) for place in (folder / "src", folder) if place.is_dir()),
            taken=tuple(point.name for point in others),
        )
        for name, named in points.items()
        for module, hooks in [read_target(named)]
    ]


def check(named: str, cwd: Path) -> list[Report]:
    """Examine every plugin that is meant.

    :raises UsageError: when nothing is meant.
    """
    papers = _papers(cwd / named) if (cwd / named).is_dir() else []
    reports = [_examined(target) for target in targets(named, cwd)]
    first = msgspec.structs.replace(reports[0], problems=(*reports[0].problems, *papers))
    return [first, *reports[1:]]


def _examined(target: Target) -> Report:
    """Examine a plugin; a slow import is measured again, for the disk and the machine's load are not its fault."""
    report = _once(target)
    for _ in range(_TRIES - 1):
        if report.import_s is None or report.import_s <= MOST_IMPORT_S:
            break
        again = _once(target)
        report = again if again.import_s is not None and again.import_s < report.import_s else report
    return report


def _once(target: Target) -> Report:
    with tempfile.TemporaryDirectory(prefix="backprop-check-") as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-P", "-m", "backprop_core.checking.child", str(path)]
        try:
            done = subprocess.run(
                command, input=msgspec.json.encode(target), capture_output=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return _broken(
                target, f"it does not import, or answer, within {LIMIT_S:g} s", "find what waits there"
            )
        if not path.is_file():
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [
                f"exit code {done.returncode}"
            ]
            return _broken(target, f"it ends the process that loads it: {last[0]}", "raise an error instead")
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    if done.stdout:
        said = Problem(
            what=f"it prints while it is imported: {done.stdout[:60].decode('utf-8', 'replace')!r}",
            mend="print nothing at import: stdout is the script's, or a JSON document",
        )
        report = msgspec.structs.replace(report, problems=(*report.problems, said))
    return report


def _broken(target: Target, what: str, mend: str) -> Report:
    problem = Problem(what=what, mend=mend)
    return Report(name=target.name, path=target.file or target.module, problems=(problem,))


def _papers(folder: Path) -> Sequence[Problem]:
    """Say which of the things are missing that people look for in a distribution."""
    import tomllib

    problems = []
    if not any(folder.glob("README*")):
        problems.append(
            Problem(
                what="there is no README", mend="say what it does, how it is installed and what may be set"
            )
        )
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8")).get("project", {})
    except (OSError, ValueError):  # which `targets` says
        return problems
    needs = project.get("dependencies", [])
    if project.get("name") != OWN_DISTRIBUTION and not any(
        str(each).startswith(OWN_DISTRIBUTION) for each in needs
    ):
        mend = f'dependencies = ["{OWN_DISTRIBUTION}>=..."] in [project]'
        problems.append(Problem(what=f"it does not say that it needs {OWN_DISTRIBUTION}", mend=mend))
    return problems
