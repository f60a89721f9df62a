"""The options that several commands share, declared once from the settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from backprop_core.opening import Ask
from backprop_core.settings import DECLARED

SHORT = {
    "--max-run-minutes": "-m",
    "--framework": "-f",
    "--checkpoint-every-minutes": "-c",
    "--gpu-memory-limit": "-g",
    "--max-parallel": "-p",
}
UNITS = {
    "maxRunMinutes": "MINUTES",
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

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, its name, the beginning of its id, or last.")
]
Force = Annotated[bool, typer.Option("--force", help="Start in spite of the Governor; watching stays on.")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Run in the background; return once the run has started.")
]
Plain = Annotated[bool, typer.Option("--plain", help="No live display.")]
ResumeFrom = Annotated[
    Path | None,
    typer.Option("--resume-from", "-r", metavar="CHECKPOINT", help="The checkpoint to go on from."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any setting, a plugin's too.")
]
Config = Annotated[Path | None, typer.Option("--config", metavar="PATH", help="Read this settings file.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say what was chosen, and why.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything up to the launch, then show it.")]
Plugin = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="MODULE", help="Load a module as a plugin.")
]
NoPlugin = Annotated[
    list[str] | None, typer.Option("--no-plugin", metavar="NAME", help="Leave a plugin out.")
]
NoLocal = Annotated[bool, typer.Option("--no-local-plugins", help="Do not load backprop_plugins.py files.")]


def global_options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    config: Config = None,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    no_local_plugins: NoLocal = False,
) -> None:
    """Run training scripts in short, safe, resumable time boxes."""
    if version:
        from backprop_core import __version__

        print(f"backprop {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit
    remember_globals(context, config, verbose, dry_run, plugin, no_plugin, no_local_plugins)


def remember_globals(
    context: typer.Context,
    config: Path | None = None,
    verbose: bool = False,
    dry_run: bool = False,
    plugin: Sequence[str] | None = None,
    no_plugin: Sequence[str] | None = None,
    no_local_plugins: bool = False,
) -> None:
    """Add global options to those given before, wherever on the command line they stood."""
    known = context.obj
    known["config"] = config or known.get("config")
    known["verbose"] = verbose or known.get("verbose", False)
    known["dry_run"] = dry_run or known.get("dry_run", False)
    known["plugin"] = [*known.get("plugin", ()), *(plugin or ())]
    known["no_plugin"] = [*known.get("no_plugin", ()), *(no_plugin or ())]
    known["no_local_plugins"] = no_local_plugins or known.get("no_local_plugins", False)


def base_ask(context: typer.Context, **more: Any) -> Ask:
    """Build what is asked for from the global options and a command's own."""
    known = context.obj
    return Ask(
        config=known["config"],
        plugins=tuple(known["plugin"]),
        blocked=tuple(known["no_plugin"]),
        with_local_plugins=not known["no_local_plugins"],
        **more,
    )


def with_settings(command: Callable[..., Any], *, with_globals: bool = False) -> Callable[..., Any]:
    """Give a command a flag for every setting that has one.

    The command is called with `flags`, dotted settings to the texts that were given. With `with_globals` the
    global options are accepted after the command too.
    """
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name != "flags"
    ]
    flags = {_parameter_name(key): key for key, setting in DECLARED.items() if setting.flag}
    shared = {
        "config": Config,
        "verbose": Verbose,
        "dry_run": DryRun,
        "plugin": Plugin,
        "no_plugin": NoPlugin,
        "no_local_plugins": NoLocal,
    }

    def with_flags(context: typer.Context, **given: Any) -> Any:
        texts = {key: given.pop(name) for name, key in flags.items()}
        if with_globals:
            remember_globals(context, **{name: given.pop(name) for name in shared})
        return command(context, flags={key: text for key, text in texts.items() if text is not None}, **given)

    parameters = [*own, *(_flag(name, key) for name, key in flags.items())]
    if with_globals:
        parameters += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=kind,
                default=False if kind in (Verbose, DryRun, NoLocal) else None,
            )
            for name, kind in shared.items()
        ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    with_flags.__doc__ = command.__doc__
    return with_flags


def _parameter_name(key: str) -> str:
    return "setting_" + DECLARED[key].snake.replace(".", "_")


def _flag(name: str, key: str) -> inspect.Parameter:
    setting = DECLARED[key]
    assert setting.flag
    names = [setting.flag, *([SHORT[setting.flag]] if setting.flag in SHORT else [])]
    default = "" if setting.default is None else f" [default: {_shown(setting.default)}]"
    option = typer.Option(
        *names,
        metavar=UNITS.get(key, "NAME"),
        help=setting.help + default.replace("[", "\\["),
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str | None, option], default=None
    )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
