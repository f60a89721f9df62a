"""What a command takes, declared once: for typer, which knows every way to type it, and for `direct`.

typer takes longer to import than most commands take to run. So no command imports it: each declares its
parameters with the records here, from which `typed` builds typer's and `direct` reads plain command lines.
"""

# No `from __future__ import annotations`, here and in the commands that are typed most: typing would compile each one.
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args, get_origin, get_type_hints

from backprop_core.records import Record
from backprop_core.settings import DECLARED
from backprop_core.units import escape

if TYPE_CHECKING:
    from backprop_core.opening import Loaded
    from backprop_core.plugin_options import OptionSetting

SHORT = {
    "--max-run-minutes": "-m",
    "--framework": "-f",
    "--checkpoint-every-minutes": "-c",
    "--gpu-memory-limit": "-g",
    "--max-parallel": "-p",
}
UNITS = {
    "maxRunMinutes": "MINUTES",
    "slices": "N",
    "totalMinutes": "MINUTES",
    "until": "TIME",
    "retries": "N",
    "stallMinutes": "MINUTES",
    "maxParallel": "N",
    "minFreeRamGB": "GB",
    "maxCpuLoad": "LOAD",
    "gpuMemoryLimit": "LIMIT",
    "checkpointEveryMinutes": "MINUTES",
    "waitMinutes": "MINUTES",
    "stopGraceSeconds": "SECONDS",
    "maxPauseMinutes": "MINUTES",
    "gpus": "N|all",
    "through": "COMMAND",
    "python": "PYTHON",
    "gpu.minFreeVramMB": "MB",
    "gpu.maxTempC": "C",
}


class Argument(Record, frozen=True):
    """A word that is told by its place; required where its parameter has no default."""

    help: str = ""
    metavar: str | None = None


class Option(Record, frozen=True):
    """A word that begins with a dash, and its value if it takes one. `least` bounds a number.

    `panel` is the part of the help that it stands in; None for where options usually stand.
    """

    names: tuple[str, ...]
    help: str
    metavar: str | None = None
    least: int | None = None
    panel: str | None = None


class Given(Record, frozen=True):
    """The global options, wherever on the command line they stood, and what is the script's.

    `loaded` are plugins that had to be asked for their options before the line could be read.
    """

    config: Path | None = None
    verbose: bool = False
    dry_run: bool = False
    plugin: tuple[str, ...] = ()
    no_plugin: tuple[str, ...] = ()
    no_local_plugins: bool = False
    trace: bool = False
    script_arguments: tuple[str, ...] = ()
    loaded: "Loaded | None" = None


class Parameter(Record, frozen=True):
    """One parameter of a command. `kind` is the type as annotated: bool, str | None, list[str] | None."""

    name: str
    kind: Any
    declared: Argument | Option
    default: Any = None
    is_required: bool = False


def argument(help: str = "", *, metavar: str | None = None) -> Argument:  # noqa: A002 - its name everywhere
    """Declare an argument."""
    return Argument(help=help, metavar=metavar)


def option(
    *names: str,
    help: str,  # noqa: A002 - its name everywhere
    metavar: str | None = None,
    least: int | None = None,
) -> Option:
    """Declare an option."""
    return Option(names=names, help=help, metavar=metavar, least=least)


Config = Annotated[Path | None, option("--config", metavar="PATH", help="Read this settings file.")]
Verbose = Annotated[bool, option("--verbose", help="Say what was chosen, and why.")]
DryRun = Annotated[bool, option("--dry-run", help="Do everything up to the launch, then show it.")]
Plugin = Annotated[list[str] | None, option("--plugin", metavar="MODULE", help="Load a module as a plugin.")]
NoPlugin = Annotated[list[str] | None, option("--no-plugin", metavar="NAME", help="Leave a plugin out.")]
Trace = Annotated[bool, option("--trace", help="Show every call of a hook, with its answer.")]
NoLocal = Annotated[bool, option("--no-local-plugins", help="Do not load backprop_plugins.py files.")]


def with_globals(
    given: Given,
    config: Config = None,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    no_local_plugins: NoLocal = False,
    trace: Trace = False,
) -> Given:
    """Add global options to those given before."""
    return Given(
        config=config or given.config,
        verbose=verbose or given.verbose,
        dry_run=dry_run or given.dry_run,
        plugin=(*given.plugin, *(plugin or ())),
        no_plugin=(*given.no_plugin, *(no_plugin or ())),
        no_local_plugins=no_local_plugins or given.no_local_plugins,
        trace=trace or given.trace,
        script_arguments=given.script_arguments,
        loaded=given.loaded,
    )


class Command:
    """A function as a command. Its first parameter, `given`, is no part of what is typed.

    With `takes_settings` it is called with `flags`, dotted settings to what was given (a text; true or false for an
    option of a plugin that is), and has an option for every setting that has a flag. With `takes_globals` the global
    options may follow it, too.
    """

    def __init__(
        self,
        function: Callable[..., int | None],
        *,
        takes_settings: bool = False,
        takes_globals: bool = False,
    ) -> None:
        self.function = function
        self.takes_settings = takes_settings
        self.flags: dict[str, str] = {}
        self.parameters = parameters_of(function)
        self._globals: tuple[Parameter, ...] = ()
        if takes_settings:
            self.flags = {_parameter_name(key): key for key, setting in DECLARED.items() if setting.flag}
            self.parameters += tuple(map(_flag, self.flags.values()))
        if takes_globals:
            self._globals = parameters_of(with_globals)
            self.parameters += self._globals

    def __call__(self, given: Given, values: Mapping[str, Any]) -> int | None:
        """Call the function with values by the parameters' names; what is not there has its default."""
        values = {**{each.name: each.default for each in self.parameters}, **values}
        if self._globals:
            given = with_globals(given, **{each.name: values.pop(each.name) for each in self._globals})
        if self.takes_settings:
            texts = {key: values.pop(name) for name, key in self.flags.items()}
            values["flags"] = {key: text for key, text in texts.items() if text is not None}
        return self.function(given, **values)

    def with_options(self, options: Sequence["OptionSetting"]) -> Self:
        """Return the same command with the options that plugins declare."""
        from copy import copy

        more = copy(self)
        added = {f"option_{number}": option for number, option in enumerate(options)}
        more.flags = {**self.flags, **{name: option.key for name, option in added.items()}}
        more.parameters = (*self.parameters, *(_plugins_flag(name, option) for name, option in added.items()))
        return more


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Read what a function declares with `Annotated`."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    default_of = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name in names:
        if get_origin(hints[name]) is Annotated:
            kind, declared = get_args(hints[name])
            is_required = name not in default_of
            found.append(
                Parameter(
                    name=name,
                    kind=kind,
                    declared=declared,
                    default=default_of.get(name),
                    is_required=is_required,
                )
            )
    return tuple(found)


def _parameter_name(key: str) -> str:
    return "setting_" + DECLARED[key].snake.replace(".", "_")


def _flag(key: str) -> Parameter:
    setting = DECLARED[key]
    assert setting.flag
    names = (setting.flag, *([SHORT[setting.flag]] if setting.flag in SHORT else []))
    if isinstance(setting.default, bool):
        declared = Option(names=names, help=setting.help)
        return Parameter(name=_parameter_name(key), kind=bool | None, declared=declared)
    default = "" if setting.default is None else f" [default: {_shown(setting.default)}]"
    declared = Option(names=names, metavar=UNITS.get(key, "NAME"), help=setting.help + default)
    return Parameter(name=_parameter_name(key), kind=str | None, declared=declared)


_AMOUNTS = {str: "TEXT", int: "N", float: "NUMBER"}


def _plugins_flag(name: str, setting: "OptionSetting") -> Parameter:
    default = "" if setting.default in (None, False) else f" [default: {_shown(setting.default)}]"
    declared = Option(
        names=("/".join(setting.flags),),
        metavar=_AMOUNTS.get(setting.kind),
        help=escape(setting.help) + default,
        panel=f"Options of the plugin {escape(setting.plugin)}",
    )
    return Parameter(name=name, kind=bool | None if setting.kind is bool else str | None, declared=declared)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
