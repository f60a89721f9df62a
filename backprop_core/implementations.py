"""What plugins have marked as implementations of hooks, and in which order these are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from . import hookspecs
from .hookspecs import PROJECT
from .records import Record

_RUNS_LATER = 0x20 | 0x80 | 0x200
"""The flags of generators and coroutines (`inspect.CO_...`, whose import would cost more than all of this)."""

SPECS = {
    name: tuple(spec.__code__.co_varnames[: spec.__code__.co_argcount])
    for name, spec in vars(hookspecs).items()
    if name.startswith("backprop_")
}


class Implementation(Record, frozen=True):
    """What one plugin does for a hook. `place` is where the plugin stands among all, the oldest first."""

    plugin: str
    hook: str
    function: Any
    arguments: tuple[str, ...]
    place: int
    is_first: bool = False
    is_last: bool = False

    @property
    def turn(self) -> tuple[int, int]:
        """Where it stands in the order of calls: the newest first, as pluggy has it, and of the last the oldest."""
        if self.is_last:
            return 1, self.place
        return -int(self.is_first), -self.place


def marked(plugin: object) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield what a plugin has marked as implementations: the hook's name, the function, the mark's options."""
    for attribute in dir(plugin):
        function = getattr(plugin, attribute, None)
        options = getattr(function, f"{PROJECT}_impl", None)
        if isinstance(options, Mapping):
            yield options.get("specname") or attribute, function, options


def implementation(
    plugin: str, hook: str, function: Any, options: Mapping[str, Any], place: int
) -> Implementation:
    """Describe what was found marked, and nothing speaks against."""
    return Implementation(
        plugin=plugin,
        hook=hook,
        function=function,
        arguments=tuple(name for name in _argument_names(function) if name not in {"self", "cls"}),
        place=place,
        is_first=bool(options.get("tryfirst")),
        is_last=bool(options.get("trylast")),
    )


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
