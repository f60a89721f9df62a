"""What a plugin's hooks and parts answer when little is known: unknown amounts are None."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from backprop_core.answers import are_arguments, are_variables
from backprop_core.errors import PluginError, ProbeError
from backprop_core.implementations import SPECS, marked
from backprop_core.interfaces import NEEDS, GpuProbe
from backprop_core.plugin_options import refuse_clashes
from backprop_core.plugins import Plugins, guarded
from backprop_core.records import (
    CheckpointSaved,
    Gpu,
    Host,
    Machine,
    Passed,
    Pause,
    PluginFailure,
    Progress,
    Refusal,
    RunRecord,
    RunRequest,
    Script,
    Stop,
    Warn,
)
from backprop_core.states import RunState

from .findings import Problem

_SCRIPT = Script(path=Path("/no/such/train.py"))
_REQUEST = RunRequest(script=_SCRIPT, run_id="a-check")
_MACHINE = Machine(host=Host(), gpus=(Gpu(index=0),), taken_at=0.0)
_NOTHING = Machine(host=Host(), gpus=None, taken_at=0.0)
_RECORD = RunRecord(id="a-check", script_path=str(_SCRIPT), status=RunState.RUNNING, start_time=0)
_UNKNOWN = "unknown amounts are None: look for that before calculating or comparing"
_DECISIONS: tuple[tuple[str, Mapping[str, Any], tuple[type, ...]], ...] = (
    ("backprop_admit", {"request": _REQUEST, "machine": _MACHINE}, (Refusal, Warn, Passed)),
    ("backprop_admit", {"request": _REQUEST, "machine": _NOTHING}, (Refusal, Warn, Passed)),
    ("backprop_govern", {"run": _RECORD, "machine": _MACHINE}, (Pause, Stop, Warn)),
    ("backprop_govern", {"run": _RECORD, "machine": _NOTHING}, (Pause, Stop, Warn)),
    ("backprop_select_gpu", {"request": _REQUEST, "gpus": _MACHINE.gpus}, (Gpu,)),
)
_TEXTS_BY_NAME = "texts by their names"


def look_at(plugin: object, plugins: Plugins) -> Iterator[Problem]:
    """Yield what is wrong with what a loaded plugin hands over and answers."""
    yield from unmarked(plugin)
    yield from _options(plugins)
    yield from _commands(plugins)
    for hook in NEEDS:
        given = {"run": _RECORD} if hook == "backprop_event_parser" else {}
        for _, part in plugins.brought(hook, **given):
            yield from _part(hook, part)
    yield from _variables(plugins)
    for hook, arguments, kinds in _DECISIONS:
        for answer in plugins.ask(hook, **arguments):
            if not answer.failure and not isinstance(answer.value, kinds):
                names = ", ".join(kind.__name__ for kind in kinds)
                what = f"it answers {type(answer.value).__name__}"
                yield Problem(what=what, mend=f"answer one of {names}, or None", where=hook)
    yield from map(_failed, plugins.failures)


def unmarked(plugin: object) -> Iterator[Problem]:
    """Yield functions that bear a hook's name, or nearly, and that nobody will call."""
    import difflib

    known = {function for _, function, _ in marked(plugin)}
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        if not name.startswith("backprop_") or not callable(function) or function in known:
            continue
        close = difflib.get_close_matches(name, SPECS, 1, 0.8)
        if close:
            others = [mark.removesuffix("_impl") for mark in vars(function) if mark.endswith("_impl")]
            how = f"marked for {others[0]} and not for Backprop" if others else "not marked"
            yield Problem(
                what=f"{name} is {how}, so that it is never called",
                mend=f"write @hookimpl of backprop_core above def {close[0]}",
                where=name,
            )


def names_of_parts(plugins: Plugins) -> Iterator[tuple[str, str, str]]:
    """Yield (plugin, kind, name) of every part that has a name."""
    kinds = {
        "backprop_storage_backend": "storage",
        "backprop_launcher": "launcher",
        "backprop_framework": "framework",
        "backprop_gpu_probe": "probe",
    }
    for hook, kind in kinds.items():
        yield from ((plugin, kind, str(part.name)) for plugin, part in plugins.brought(hook))


def _failed(failure: PluginFailure) -> Problem:
    is_about_none = "NoneType" in failure.error
    mend = (
        _UNKNOWN
        if is_about_none
        else "mend what raises; what then happens is said at `:on error:` of the hook"
    )
    if failure.hook in NEEDS and failure.error.endswith("is a class, not an object of it"):
        mend = f"hand over an object: {failure.error.partition(' ')[0]}()"
    elif " lacks " in failure.error:
        mend = "add it: backprop_core.interfaces says what each is for"
    elif failure.hook in NEEDS and ", not a" in failure.error:
        mend = "make it one: backprop_core.interfaces says what each is for"
    return Problem(what=failure.error, mend=mend, where=failure.hook)


def _options(plugins: Plugins) -> Iterator[Problem]:
    for _, option in plugins.options():
        if not option.help.strip():
            yield Problem(
                what=f"the option {option.name} has no help",
                mend="say in a sentence what it is for",
                where="backprop_options",
            )
    try:
        refuse_clashes(plugins)
    except PluginError as error:
        yield Problem(what=error.message, mend="rename the option", where="backprop_options")


def _commands(plugins: Plugins) -> Iterator[Problem]:
    for answer in plugins.ask("backprop_commands"):
        is_mapping = isinstance(answer.value, Mapping)
        if not answer.failure and not (
            is_mapping and all(type(app).__name__ == "Typer" for app in answer.value.values())
        ):
            yield Problem(
                what="it answers something else than Typer apps by their names",
                mend='return {"name": typer.Typer(...)}',
                where="backprop_commands",
            )


def _part(hook: str, part: Any) -> Iterator[Problem]:
    where = type(part).__name__ if hook != "backprop_event_parser" else getattr(part, "__name__", hook)
    if hook == "backprop_event_parser":
        yield from _parser(part, where)
        return
    if hook == "backprop_framework":
        yield from _answers(where, "score", partial(part.score, _SCRIPT), "a number from 0 to 1", _is_score)
        yield from _answers(
            where,
            "environment",
            partial(part.environment, _REQUEST, None),
            _TEXTS_BY_NAME,
            are_variables,
        )
        ask = partial(part.resume_arguments, _SCRIPT, Path("/no/such/checkpoint"))
        yield from _answers(where, "resume_arguments", ask, "a list of texts", are_arguments)
    if hook == "backprop_gpu_probe":
        yield from _probe(part, where)
    if not (type(part).__doc__ or "").strip():
        yield Problem(what="nothing says what it is", mend="give the class a docstring", where=where)


def _probe(part: GpuProbe, where: str) -> Iterator[Problem]:
    """Ask a probe as `status` does: it is read where it says that it can be."""

    def read() -> Sequence[Gpu]:
        try:
            return part.read() if part.is_available() else []
        except ProbeError:  # as a probe says that there is nothing to be read
            return []

    yield from _answers(where, "is_available", part.is_available, "True or False", _is_bool)
    yield from _answers(where, "read", read, "a list of Gpu", _are_gpus)
    confine = partial(part.visible_devices, Gpu(index=0, uuid="GPU-0"))
    yield from _answers(where, "visible_devices", confine, _TEXTS_BY_NAME, are_variables)


def _variables(plugins: Plugins) -> Iterator[Problem]:
    for answer in plugins.ask("backprop_environment", request=_REQUEST, gpu=None):
        if not answer.failure and not are_variables(answer.value):
            what, mend = f"it answers {answer.value!r:.80}", f"answer {_TEXTS_BY_NAME}, or None"
            yield Problem(what=what, mend=mend, where="backprop_environment")


def _parser(parse: Callable[[str], Any], where: str) -> Iterator[Problem]:
    for line in ("", "hello", "\x00\ufffd{"):
        wanted = "events, or None for a line that is not its own"
        yield from _answers(where, f"({line!r})", partial(parse, line), wanted, _are_events)


def _answers(
    where: str, method: str, call: Callable[[], Any], wanted: str, is_right: Callable[[Any], bool]
) -> Iterator[Problem]:
    value, failure = guarded(where, method, call)
    if failure:
        yield Problem(what=f"{method} raises {failure.error}", mend=f"answer {wanted}", where=where)
    elif not is_right(value):
        yield Problem(what=f"{method} answers {value!r}", mend=f"answer {wanted}", where=where)


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _are_gpus(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(one, Gpu) for one in value)


def _are_events(value: Any) -> bool:
    return value is None or (
        isinstance(value, Sequence) and all(isinstance(one, Progress | CheckpointSaved) for one in value)
    )
