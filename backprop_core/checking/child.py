"""The process that loads a plugin to be checked: `python -m backprop_core.checking.child REPORT < target`.

Whatever the plugin does (print, exit, hang, crash) happens here; who started this process sees that it has ended
without a report.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import msgspec

from backprop_core.errors import PluginError
from backprop_core.implementations import marked, problem_with
from backprop_core.plugin_sources import FILE_MODULE, bring
from backprop_core.plugins import Plugins, PluginState, guarded

from . import parts, source
from .findings import Problem, Report, Target

MOST_IMPORT_S = 0.1


class ImportTimes:
    """Stands in for `__import__` and measures what a plugin's own import statements take."""

    def __init__(self, package: str | None) -> None:
        self._package = package
        self._import = builtins.__import__
        self._is_inside = False
        self.took_s: dict[str, float] = {}

    def __call__(
        self,
        name: str,
        globals_: Mapping[str, Any] | None = None,
        locals_: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        importer = str((globals_ or {}).get("__name__", ""))
        own = (
            importer.startswith(FILE_MODULE)
            if self._package is None
            else importer.partition(".")[0] == self._package
        )
        if self._is_inside or level or not own or name.partition(".")[0] == self._package:
            return self._import(name, globals_, locals_, fromlist, level)
        self._is_inside = True
        started_s = perf_counter()
        try:
            return self._import(name, globals_, locals_, fromlist, level)
        finally:
            self._is_inside = False
            self.took_s[name] = self.took_s.get(name, 0.0) + perf_counter() - started_s


def examine(target: Target) -> Report:
    """Load the plugin and look at it."""
    sys.path[:0] = target.search
    name = target.file or target.name
    times = ImportTimes(str(target.module).partition(":")[0].partition(".")[0] if target.module else None)
    builtins.__import__ = times  # type: ignore[assignment]
    started_s = perf_counter()
    loaded, failure = guarded(name, None, bring, target.module, target.file)
    took_s = perf_counter() - started_s
    builtins.__import__ = times._import  # noqa: SLF001 - what stood there before
    if failure:
        mend = "mend the error; a plugin must import wherever it is installed"
        return Report(name=name, path=target.file, problems=(Problem(what=failure.error, mend=mend),))
    plugin, path = loaded
    problems = [
        *_hooks(plugin),
        *_named(plugin, target),
        *_slow(took_s, times.took_s),
        *_taken(target),
        *source.look_at(Path(path)),
    ]
    hooks = tuple(sorted({hook for hook, _, _ in marked(plugin)}))
    plugins = Plugins()
    try:
        plugins.add(plugin, PluginState(name=name, state="active", path=path, hooks=hooks))
    except PluginError:  # `_hooks` has said why
        return Report(name=name, path=path, hooks=hooks, import_s=took_s, problems=tuple(problems))
    problems += parts.look_at(plugin, plugins)
    found = tuple(f"{kind} {part}" for _, kind, part in parts.names_of_parts(plugins))
    unique = tuple(dict.fromkeys(problems))
    return Report(name=name, path=path, hooks=hooks, parts=found, import_s=took_s, problems=unique)


def _hooks(plugin: object) -> list[Problem]:
    found = [(name, problem_with(name, function, options)) for name, function, options in marked(plugin)]
    mends = {
        "there is no hook": "the hook reference lists every hook",
        "defaults": "name the arguments it uses, without defaults",
        "is async": "write it without async and without yield: its answer is used at once",
        "wrapper": "implement the hook itself: each implementation is called by itself",
        " takes ": "name only arguments that the hook has",
    }
    problems = [
        Problem(
            what=problem,
            mend=next((mend for sign, mend in mends.items() if sign in problem), "make it a function"),
            where=name,
        )
        for name, problem in found
        if problem
    ]
    if not found:
        problems.append(_no_hook(plugin))
    return problems


def _no_hook(plugin: object) -> Problem:
    classes = (name for name, value in vars(plugin).items() if isinstance(value, type) and any(marked(value)))
    if not (name := next(classes, None)):
        mend = "write @hookimpl above a function that bears a hook's name"
        return Problem(what="it implements no hook", mend=mend)
    mend = f"write them as functions, or name an object in the entry point: MODULE:plugin, where plugin = {name}()"
    return Problem(what=f"it implements no hook: those of the class {name} are no object's", mend=mend)


def _named(plugin: object, target: Target) -> list[Problem]:
    """Say where an entry point names other hooks than its plugin implements: those it leaves out are never called."""
    found = {hook for hook, _, _ in marked(plugin)}
    if not target.hooks or set(target.hooks) == found:
        return []
    mend = f'NAME = "{target.module} [{", ".join(sorted(found))}]", or no brackets at all'
    return [Problem(what=f"its entry point names {', '.join(target.hooks)}", mend=mend)]


def _slow(took_s: float, imports: Mapping[str, float]) -> list[Problem]:
    if took_s <= MOST_IMPORT_S:
        return []
    heavy = [
        f"{name} {each_s * 1000:.0f} ms"
        for name, each_s in sorted(imports.items(), key=lambda item: -item[1])[:3]
        if each_s > MOST_IMPORT_S / 10
    ]
    what = f"its import takes {took_s * 1000:.0f} ms, which every command pays"
    return [
        Problem(
            what=f"{what} ({', '.join(heavy)})" if heavy else what,
            mend=f"import what costs inside the functions that need it; {MOST_IMPORT_S * 1000:.0f} ms are the most",
        )
    ]


def _taken(target: Target) -> list[Problem]:
    if target.name not in target.taken:
        return []
    return [
        Problem(what=f"another plugin is named {target.name}", mend="give its entry point a name of its own")
    ]


def main() -> None:
    """Examine the plugin that stands on stdin, and write the report."""
    target = msgspec.json.decode(sys.stdin.buffer.read(), type=Target)
    report = examine(target)
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
