"""The command line as typer has it: every spelling, help, and errors that say what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from backprop_core.plugin_options import OptionSetting

from .declared import Argument, Command, Given, Option, Parameter, parameters_of, with_globals

# The base of every usage error, wherever this version of typer keeps it.
UsageProblem: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
Interrupted = typer.Abort
Version = Annotated[bool, typer.Option("--version", help="Show the version and exit.")]


def is_unknown_option(error: Exception) -> bool:
    """Tell whether a usage error is about an option that no command declares."""
    return type(error).__name__ == "NoSuchOption"


def build_app(
    names: Sequence[str],
    about: Mapping[str, str],
    hidden: Collection[str],
    options: Sequence[OptionSetting] = (),
) -> typer.Typer:
    """Build the command line with these commands, which all take these options of plugins."""
    app = typer.Typer(
        name="backprop",
        help="Run training scripts in short, safe, resumable time boxes.",
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_global_options())
    for name in names:
        module = import_module(f"backprop_core.cli.{name}_")
        if hasattr(module, "COMMAND"):
            command = module.COMMAND.with_options(options) if options else module.COMMAND
            app.command(name, help=about[name], hidden=name in hidden)(in_typers_words(command))
        else:
            module.register(app, about[name])
    return app


def invoke(app: typer.Typer, words: Sequence[str], given: Given) -> object:
    """Run a command line and return what its command returned."""
    command = typer.main.get_command(app)
    return command.main(args=list(words), prog_name="backprop", standalone_mode=False, obj=given)


def in_typers_words(command: Command) -> Callable[..., Any]:
    """Return the command as a function that typer reads the same parameters from."""

    def with_context(context: typer.Context, **values: Any) -> Any:
        return command(context.obj, values)

    return _signed(with_context, command.function, command.parameters)


def when_alone(command: Command) -> Callable[..., Any]:
    """Return the command as what a group of commands does where none of them is named."""

    def with_context(context: typer.Context, **values: Any) -> Any:
        return command(context.obj, values) if context.invoked_subcommand is None else None

    return _signed(with_context, command.function, command.parameters)


def _global_options() -> Callable[..., Any]:
    def callback(context: typer.Context, version: bool = False, **values: Any) -> None:
        if version:
            from backprop_core import __version__

            print(f"backprop {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())
            raise typer.Exit
        context.obj = with_globals(context.obj, **values)

    first = inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, annotation=Version, default=False)
    return _signed(callback, None, parameters_of(with_globals), first)


def _signed(
    function: Callable[..., Any],
    documented: Callable[..., Any] | None,
    parameters: Sequence[Parameter],
    *first: inspect.Parameter,
) -> Callable[..., Any]:
    """Give a function the signature that typer is to read."""
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    signature = inspect.Signature([context, *first, *map(_parameter, parameters)])
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    function.__doc__ = documented.__doc__ if documented else None
    return function


def _parameter(parameter: Parameter) -> inspect.Parameter:
    match parameter.declared:
        case Argument(help=text, metavar=metavar):
            info: Any = typer.Argument(metavar=metavar, help=text or None)
        case Option(names=names, help=text, metavar=metavar, least=least, panel=panel):
            info = typer.Option(
                *names,
                metavar=metavar,
                help=text.replace("[", "\\["),
                min=least,
                show_default=False,
                rich_help_panel=panel,
            )
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[parameter.kind, info],
        default=inspect.Parameter.empty if parameter.is_required else parameter.default,
    )
