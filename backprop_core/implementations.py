"""What plugins have marked as implementations of hooks, and in which order these are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pluggy

from . import hookspecs
from .hookspecs import PROJECT

_RUNS_LATER = 0x20 | 0x80 | 0x200
"""The flags of generators and coroutines (`inspect.CO_...`, whose import would cost more than all of this)."""

SPECS = {
    name: tuple(spec.__code__.co_varnames[: spec.__code__.co_argcount])
    for name, spec in vars(hookspecs).items()
    if name.startswith("backprop_")
}


def marked(plugin: object) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield what a plugin has marked as implementations: the hook's name, the function, the mark's options."""
    for attribute in dir(plugin):
        options = _mark(plugin, attribute, "impl")
        if options is not None:
            yield options.get("specname") or attribute, getattr(plugin, attribute), options


def _mark(place: object, name: str, kind: str) -> Mapping[str, Any] | None:
    """Return what pluggy's marker of this kind has left at an attribute."""
    mark = getattr(getattr(place, name, None), f"{PROJECT}_{kind}", None)
    return mark if isinstance(mark, Mapping) else None


class Manager(pluggy.PluginManager):
    """Looks at what is marked alone: pluggy takes longer over every attribute of a plugin than its import takes."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        return super().parse_hookimpl_opts(plugin, name) if _mark(plugin, name, "impl") is not None else None

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> pluggy.HookspecOpts | None:
        is_marked = _mark(module_or_class, name, "spec") is not None
        return super().parse_hookspec_opts(module_or_class, name) if is_marked else None


def turn(implementation: pluggy.HookImpl, place: int) -> tuple[int, int]:
    """Return where an implementation stands in the order of calls, which is pluggy's: the newest plugin first.

    pluggy itself orders by when plugins were registered, which those that are loaded late must not be.

    :param place: Where its plugin stands among all, the oldest first.
    """
    if implementation.trylast:
        return 1, place
    return -int(implementation.tryfirst), -place


def problem_with(name: str, function: Any, options: Mapping[str, Any]) -> str | None:
    """Say why nobody could call an implementation; None where somebody can."""
    if name not in SPECS:
        import difflib

        close = difflib.get_close_matches(name, SPECS, 1)
        return f"there is no hook {name}" + (f"; did you mean {close[0]}?" if close else "")
    if options.get("wrapper") or options.get("hookwrapper"):
        return f"{name} is a hook wrapper, which Backprop does not call"
    return _problem_with_call(name, function)


def _problem_with_call(name: str, function: Any) -> str | None:
    bare = getattr(function, "__func__", function)
    if not hasattr(bare, "__code__"):
        return f"{name} is not a function"
    if bare.__code__.co_flags & _RUNS_LATER:
        return f"{name} is async, or has a yield, so that a call of it does nothing"
    if bare.__defaults__ or bare.__code__.co_kwonlyargcount:
        return f"{name} has arguments with defaults, or by keyword only, which hooks may not have"
    unknown = [
        argument for argument in _argument_names(function) if argument not in (*SPECS[name], "self", "cls")
    ]
    if unknown:
        return f"{name} takes {', '.join(unknown)}; it may take {', '.join(SPECS[name]) or 'nothing'}"
    return None


def _argument_names(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__func__", function).__code__
    return tuple(code.co_varnames[: code.co_argcount])
