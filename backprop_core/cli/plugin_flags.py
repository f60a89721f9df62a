"""The first reading of a command line that names options of plugins: it finds which plugins to ask."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from backprop_core.errors import BackpropError
from backprop_core.opening import Ask, Loaded, settle
from backprop_core.plugin_options import OptionSetting, declared, refuse_clashes
from backprop_core.records import Record
from backprop_core.resuming import recall

from .app import complain, say
from .declared import Option, Parameter, parameters_of, with_globals
from .options import show_call


class FirstReading(Record, frozen=True):
    """What stands on a command line besides options that nobody knows yet.

    `given` maps long options to their values, the last one last; `subject` is SCRIPT or RUN, as far as it can be told.
    """

    given: Mapping[str, Sequence[str]]
    subject: str | None = None

    @property
    def ask(self) -> Ask:
        """What it asks for, as far as plugins are concerned."""
        given = self.given
        return Ask(
            config=Path(given["--config"][-1]) if "--config" in given else None,
            plugins=tuple(given.get("--plugin", ())),
            blocked=tuple(given.get("--no-plugin", ())),
            assignments=tuple(given.get("--set", ())),
            flags={"storage": given["--storage"][-1]} if "--storage" in given else {},
            with_local_plugins="--no-local-plugins" not in given,
            tell=say,
            trace=show_call if "--trace" in given else None,
        )


def ask_plugins(
    command: str, words: Sequence[str], *, is_help: bool
) -> tuple[Sequence[OptionSetting], Loaded | None]:
    """Load the plugins that the command would load, and return the options that they declare.

    :param is_help: Help is wanted: it shows what it can, and runs no file that lies beside a script.
    :raises BackpropError: for whatever would keep the command from running; with `is_help` it is told.
    """
    reading = read_first(command, words)
    try:
        loaded = _settle(command, reading, with_script=not is_help)
        refuse_clashes(loaded.plugins)
    except BackpropError as error:
        if not is_help:
            raise
        complain(error)
        return (), None
    return tuple(declared(loaded.plugins).values()), loaded


def _settle(command: str, reading: FirstReading, *, with_script: bool) -> Loaded:
    ask = reading.ask
    if not with_script or reading.subject is None:
        return settle(ask, os.environ).loaded
    if command == "run":
        return settle(ask, os.environ, script=Path(reading.subject)).loaded
    record = recall(reading.subject, ask, os.environ)
    return settle(ask, os.environ, script=Path(record.script_path), recorded=record.settings).loaded


def read_first(command: str | None, words: Sequence[str]) -> FirstReading:
    """Read what is ours, and pass over options of others; without a command of ours, the global options alone.

    Whether the word after one of those is its value is not known yet, so that a word after none of them is
    SCRIPT or RUN before any that is.
    """
    long, takes_value = _our_options(command)
    given: dict[str, list[str]] = {}
    certain: list[str] = []
    possible: list[str] = []
    rest = iter(words)
    after_unknown = False
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            (possible if after_unknown else certain).append(word)
            after_unknown = False
            continue
        after_unknown = name not in long and not equals
        if not word.startswith("--") and word[:2] in takes_value and word[2:]:
            name, equals, value, after_unknown = word[:2], "=", word[2:], False
        if name in takes_value and not equals:
            value = next(rest, "")
        if name in long:
            given.setdefault(long[name], []).append(value)
    if command:
        certain.remove(command)
    return FirstReading(given=given, subject=next(iter([*certain, *reversed(possible)]), None))


def _our_options(command: str | None) -> tuple[dict[str, str], set[str]]:
    """Return the long form of every option of ours, and which of them take a value."""
    parameters: Sequence[Parameter] = parameters_of(with_globals)
    if command:
        parameters = import_module(f"backprop_core.cli.{command}_").COMMAND.parameters
    options = [each for each in parameters if isinstance(each.declared, Option)]
    long = {name: max(names, key=len) for names in map(_names, options) for name in names}
    takes_value = {name for each in options if each.kind is not bool for name in _names(each)}
    return {**long, "-h": "--help", "--help": "--help"}, takes_value


def _names(parameter: Parameter) -> tuple[str, ...]:
    assert isinstance(parameter.declared, Option)
    return parameter.declared.names
